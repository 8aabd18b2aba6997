"""The plan of trainings many at a time: what is trained before what, and what is kept."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
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


@pytest.mark.parametrize("plan, kept", [("arms", 12), ("full_widths", 3), ("long", 0), ("lengths", 0)])
def test_a_kept_teacher_has_seen_the_patients_of_its_student_and_no_others(arms, tmp_path, plan, kept):
    settings = yaml.safe_load(PLAN.with_name(f"{plan}.yaml").read_text())
    runs = list(arms.planned(settings, Path("data"), tmp_path))
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
    assert distilled == kept


SHAPES = {"--student_sequence", "--deep_supervision", "--network_def::attention"}  # of the student
DISTILLS = ("--confidence::", "--fusion", "--teachers::", "--loss::", "--distillation_warm_up", "--forms", "--resume",
            "--teacher_checkpoint", "--flair_checkpoint", "--t2_checkpoint")  # fmt: skip


def test_arms_differ_by_distillation_and_what_shapes_the_student_alone(arms, tmp_path):
    """So there is one budget, one optimizer and one augmentation."""
    runs = list(arms.planned(yaml.safe_load(PLAN.read_text()), Path("data"), tmp_path))
    own = {"--output_dir", "--seed"}
    alone = {key: value for key, value in options_of(runs[0].waiting[0]).items() if key not in own | SHAPES}
    for run in runs:
        training, *others = [command for command in run.waiting if command[0] == "monai.bundle"]
        rest = {key: value for key, value in options_of(training).items() if not key.startswith(DISTILLS)}
        assert {key: value for key, value in rest.items() if key not in own | SHAPES} == {
            key: value for key, value in alone.items() if key != "--resume"
        }
        for scoring in others:
            told = options_of(scoring)
            assert {key: value for key, value in told.items() if key in SHAPES} == {
                key: value for key, value in options_of(training).items() if key in SHAPES
            }


def test_t1ce_is_what_modality_dropout_keeps():
    read = {name: yaml.safe_load((ROOT / path).read_text()) for name, path in {
        "network": "bundle/configs/four_sequences.yaml", "training": "tests/benchmarks/modality_dropout.yaml",
        "scores": "tests/benchmarks/t1ce_alone.yaml",
    }.items()}  # fmt: skip
    kept = [transforms[0]["kept"] for transforms in (read["training"]["+augmentation::transforms"],
                                                     read["scores"]["+preprocessing::transforms"])]  # fmt: skip
    assert kept == [read["network"]["student_sequence"].index("t1ce")] * 2


def test_a_list_that_would_change_is_refused(arms, tmp_path, cohort_source):
    path = tmp_path / "five.json"
    arms.make_list(path, cohort_source / "data", {"folds": 2})
    before = path.read_bytes()
    arms.make_list(path, cohort_source / "data", {"folds": 2})
    with pytest.raises(UserError, match="five.json is not what the plan and .* give now"):
        arms.make_list(path, cohort_source / "data", {"folds": 3})
    assert [item.name for item in tmp_path.iterdir()] == ["five.json"]
    assert path.read_bytes() == before


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


def test_each_arm_and_form_can_be_timed(arms, tmp_path):
    """``arms``, the fixture, gives the number of threads back."""
    from costs import contenders

    tiny = {"student_widths": "[4,4,8,8]", "teacher_widths": "[4,4,8,8]", "roi_size": "[16,16,16]", "amp": False}
    plan = yaml.safe_load(PLAN.read_text())
    names = ["alone", "four_sequences", "mtcm_kd", "whole_tumour", "of_logits"]
    plan |= {"both": tiny, "arms": {name: plan["arms"][name] for name in names}}
    updates = dict(contenders(plan, tmp_path))
    assert list(updates) == [*names[:4], *(f"of_logits/{form}" for form in plan["arms"]["of_logits"]["forms"])]
    networks = {name: update.args[0].network for name, update in updates.items()}
    assert list(networks["mtcm_kd"].teachers) == ["flair", "t2", "t1"]
    assert list(networks["of_logits/correlation"].students) == ["correlation"]
    kept = torch.load(tmp_path / "split/four_sequences_s0/fold_0/models/model.pt", weights_only=True)
    taught = networks["whole_tumour"].teachers["all"].network.state_dict()
    assert all(torch.equal(taught[name], value) for name, value in kept.items())
    for update in updates.values():
        assert torch.isfinite(update()["loss"]).all()
