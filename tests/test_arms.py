"""The plan of trainings many at a time: what is trained before what, and what is kept."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from conftest import ROOT
from scripts.data.phantom import make_phantoms
from scripts.errors import UserError

PLAN = ROOT / "experiments" / "arms.yaml"


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


KEPT = {"arms": 18, "full_widths": 3, "long": 0, "lengths": 0, "unlabelled": 16, "site": 4}


@pytest.mark.parametrize("plan, kept", KEPT.items())
def test_a_kept_teacher_has_seen_the_patients_of_its_student_and_no_others(arms, tmp_path, plan, kept):
    settings = yaml.safe_load(PLAN.with_name(f"{plan}.yaml").read_text())
    runs = list(arms.planned(settings, Path("data"), tmp_path))
    before: dict[Path, dict[str, str]] = {}
    distilled = 0
    for run in runs:
        training = options_of(next(command for command in run.waiting if "training" in command))
        for folder in run.after:
            teacher = before[folder]  # KeyError: it would come later in the plan
            same = ["--datalist", "--fold"]
            if not any(str(folder / "predictions") in word for word in run.waiting[0]):
                assert str(folder / "models" / "model.pt") in training.values()
                same += ["--epochs"]
            assert all(training[key] == teacher[key] for key in same)
        distilled += bool(run.after)
        before[run.folder] = training
    assert len(before) == len(runs)  # no two in one folder
    assert distilled == kept


SHAPES = {"--student_sequence", "--deep_supervision", "--network_def::attention"}  # of the student
DISTILLS = ("--soft_target", "--confidence::", "--fusion", "--teachers", "--loss::", "--distillation")


def test_arms_differ_by_distillation_and_what_shapes_the_student_alone(arms, tmp_path):
    """So there is one budget, one optimizer and one augmentation."""
    runs = list(arms.planned(yaml.safe_load(PLAN.read_text()), Path("data"), tmp_path))
    own = {"--output_dir", "--seed"}
    alone = {key: value for key, value in options_of(runs[0].waiting[0]).items() if key not in own | SHAPES}
    for run in runs:
        training, scoring = map(options_of, run.waiting)
        rest = {key: value for key, value in training.items() if not key.startswith(DISTILLS)}
        assert {key: value for key, value in rest.items() if key not in own | SHAPES} == alone
        assert {key: value for key, value in scoring.items() if key in SHAPES} == {
            key: value for key, value in training.items() if key in SHAPES
        }


def test_t1ce_is_what_modality_dropout_keeps():
    read = {name: yaml.safe_load((ROOT / path).read_text()) for name, path in {
        "network": "bundle/configs/four_sequences.yaml", "training": "experiments/modality_dropout.yaml",
        "scores": "experiments/t1ce_alone.yaml",
    }.items()}  # fmt: skip
    kept = [transforms[0]["kept"] for transforms in (read["training"]["+augmentation::transforms"],
                                                     read["scores"]["+preprocessing::transforms"])]  # fmt: skip
    assert kept == [read["network"]["student_sequence"].index("t1ce")] * 2


def test_a_list_that_would_change_is_rejected(arms, tmp_path, cohort_source):
    path = tmp_path / "five.json"
    arms.make_list(path, cohort_source / "data", {"folds": 2})
    before = path.read_bytes()
    arms.make_list(path, cohort_source / "data", {"folds": 2})
    with pytest.raises(UserError, match="five.json is not what the plan and .* give now"):
        arms.make_list(path, cohort_source / "data", {"folds": 3})
    assert [item.name for item in tmp_path.iterdir()] == ["five.json"]
    assert path.read_bytes() == before


def test_lists_of_several_folders_are_joined_and_lose_the_labels_of_other_folds(arms, tmp_path):
    for name, seed in {"near": 0, "far": 1}.items():
        make_phantoms(str(tmp_path / "data" / name), cases=4, size=32, seed=seed)
        for folder in (tmp_path / "data" / name).iterdir():  # names of their own
            for file in folder.iterdir():
                file.rename(file.with_name(file.name.replace("phantom", name)))
            folder.rename(folder.with_name(folder.name.replace("phantom", name)))
    options = {"folders": {"far": {"folds": 2}, "near": {"folds": 1}}, "labels_of": [1, 2]}
    arms.make_list(tmp_path / "joined.json", tmp_path / "data", options)
    entries = json.loads((tmp_path / "joined.json").read_text())["training"]
    assert all((tmp_path / "data" / entry[key]).is_file() for entry in entries for key in ("image", "flair"))
    folds = {name: [entry.get("fold") for entry in entries if name in entry["case"]] for name in ("near", "far")}
    assert folds["near"] == [2] * 4 and sorted(folds["far"], key=str) == [1, 1, None, None]
    assert [("label" in entry) for entry in entries] == [("fold" in entry) for entry in entries]

    for label in (tmp_path / "data" / "near").glob("*/*_seg.nii.gz"):  # as in BraTS 2023
        image = nib.load(label)
        voxels = np.asarray(image.dataobj)
        nib.save(nib.Nifti1Image(np.where(voxels == 4, 3, voxels).astype(np.uint8), image.affine), label)
    with pytest.raises(UserError, match="labels of .*near mean .*'3': 'ET'"):
        arms.make_list(tmp_path / "other.json", tmp_path / "data", options)


def test_what_another_plan_has_done_is_rejected(arms, tmp_path):
    command = ["run", "training", "--epochs", "1"]
    run = arms.Run(tmp_path, [command])
    (tmp_path / "done").write_text(run.record)
    run.reject_other()
    for other in (arms.Run(tmp_path, [[*command[:-1], "2"]]), arms.Run(tmp_path, [command], (), {"folds": 4})):
        with pytest.raises(UserError, match="was done by another plan: give another output_dir"):
            other.reject_other()


@pytest.mark.parametrize("name", [pytest.param("arms", marks=pytest.mark.slow), "full_widths", "long", "lengths"])
def test_every_arm_builds_and_takes_an_update(arms, tmp_path, name):
    """With its plan's options, but smaller patches. ``arms``, the fixture, gives the number of threads back."""
    from costs import contenders, parser_of

    torch.set_num_threads(1)
    plan = yaml.safe_load(PLAN.with_name(f"{name}.yaml").read_text().replace("[32,64,128,256]", "[4,8,8,16]"))
    plan["both"] = {**plan.get("both", {}), "roi_size": "[16,16,16]", "amp": False}
    listed = tmp_path / next(iter(plan["lists"]))
    built = set()
    for arm, update in contenders(plan, tmp_path):
        networks, result = update.args[0].network, update()
        assert torch.isfinite(result["loss"]).all(), arm
        for option, kept in plan["arms"][arm].get("kept", {}).items():
            teacher = networks.teachers[option.split("::")[1]]
            weights = torch.load(listed / f"{kept}_s0/fold_0/models/model.pt", weights_only=True)
            same = [torch.equal(value, weights[key]) for key, value in teacher.network.state_dict().items()]
            assert all(same) == teacher.frozen, arm
        scoring = parser_of(arms.make_run(plan, tmp_path, listed, arm, 0, 0), stage="evaluating")
        scoring.get_parsed_content("network_def").load_state_dict(networks.student.state_dict())
        assert len(scoring.get_parsed_content("preprocessing").transforms) >= 7
        built.add(arm)
    assert built == set(plan["arms"]) >= {one for entry in plan["runs"] for one in entry["arms"]}
