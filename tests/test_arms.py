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
    """Keys and values after ``monai.bundle run training --config_file FILES``."""
    return dict(zip(command[5::2], command[6::2]))


def test_a_kept_teacher_has_seen_the_patients_of_its_student_and_no_others(arms, tmp_path):
    runs = list(arms.planned(yaml.safe_load(PLAN.read_text()), Path("data"), tmp_path))
    before: dict[Path, dict[str, str]] = {}
    distilled = 0
    for run in runs:
        training = options_of(run.waiting[0])
        for folder in run.after:
            teacher = before[folder]  # KeyError: it would come later in the plan
            assert str(folder / "models" / "model.pt") in training.values()
            assert all(training[key] == teacher[key] for key in ("--datalist", "--fold", "--epochs"))
        distilled += bool(run.after)
        before[run.folder] = training
    assert len(before) == len(runs)  # no two in one folder
    assert distilled == 12


def test_arms_differ_by_what_they_say_alone(arms, tmp_path):
    """One budget, and of each arm's evaluation only what shapes the network."""
    runs = list(arms.planned(yaml.safe_load(PLAN.read_text()), Path("data"), tmp_path))
    same = ("--epochs", "--dataset_dir", "--datalist", "--fold", "--teacher_widths", "--num_workers")
    budgets = {tuple(options_of(run.waiting[0]).get(key) for key in same) for run in runs}
    assert len(budgets) == 1
    scored = {key for run in runs for command in run.waiting if "evaluating" in command for key in options_of(command)}
    assert scored - {*same, "--output_dir", "--mirror", "--uncertainty"} == {
        "--student_sequence", "--deep_supervision", "--network_def::attention"
    }  # fmt: skip


def test_students_side_by_side_are_taken_apart_and_scored(arms, tmp_path):
    runs = {run.folder.parent.name: run for run in arms.planned(yaml.safe_load(PLAN.read_text()), tmp_path, tmp_path)}
    training, split, *scored = runs["of_features_s0"].waiting
    assert training[-2:] == ["--forms", "['features', 'prototypes']"]
    assert split[0] == "side_by_side"
    written = Path(split[split.index("--output_dir") + 1])
    students = [Path(options_of(command)["--output_dir"]) for command in scored]
    assert students == [written / name / "fold_0" for name in ("alone", "features", "prototypes")]


def test_what_another_plan_has_done_is_refused(arms, tmp_path):
    command = ["run", "training", "--epochs", "1"]
    run = arms.Run(tmp_path, [command])
    (tmp_path / "done").write_text(run.record)
    run.refuse_other()
    for other in (arms.Run(tmp_path, [[*command[:-1], "2"]]), arms.Run(tmp_path, [command], (), {"folds": 4})):
        with pytest.raises(UserError, match="was done by another plan: give another output_dir"):
            other.refuse_other()
