"""The plan of trainings many at a time: what is trained before what, and what is kept."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from conftest import ROOT
from scripts.errors import UserError

PLAN = ROOT / "tests" / "benchmarks" / "arms.yaml"


@pytest.fixture
def arms(monkeypatch) -> ModuleType:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the module sets
    spec = importlib.util.spec_from_file_location("arms", PLAN.with_suffix(".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(command: list[str]) -> dict[str, str]:
    """Keys and values after ``run training --config_file FILES``."""
    return dict(zip(command[4::2], command[5::2]))


def test_a_kept_teacher_has_seen_the_patients_of_its_student_and_no_others(arms, tmp_path):
    runs = list(arms.planned(yaml.safe_load(PLAN.read_text()), Path("data"), tmp_path))
    before: dict[Path, dict[str, str]] = {}
    distilled = 0
    for run in runs:
        training = options_of(run.waiting[0])
        if run.after is not None:
            teacher = before[run.after]  # KeyError: it would come later in the plan
            assert training["--teacher_checkpoint"] == str(run.after / "models" / "model.pt")
            assert all(training[key] == teacher[key] for key in ("--datalist", "--fold", "--epochs"))
            distilled += 1
        before[run.folder] = training
    assert len(before) == len(runs) == 28  # no two in one folder
    assert distilled == 9  # whole_tumour: three seeds on split.json, five folds, all patients


def test_what_another_plan_has_done_is_refused(arms, tmp_path):
    command = ["run", "training", "--epochs", "1"]
    run = arms.Run(tmp_path, [command], None)
    (tmp_path / "done").write_text(run.record)
    run.refuse_other()
    for other in (arms.Run(tmp_path, [[*command[:-1], "2"]], None), arms.Run(tmp_path, [command], None, {"folds": 4})):
        with pytest.raises(UserError, match="was done by another plan: give another output_dir"):
            other.refuse_other()
