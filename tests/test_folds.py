"""Folds: disjoint by patient, stratified, seeded, or as a split file says."""

import json

import pytest

from scripts.data.folds import HELD_OUT, assign_folds, choose_folds, read_split, warn_of_parted_patients
from scripts.errors import UserError
from scripts.folders.case import Case


def patients(*names):
    return [Case(name) for name in names]


def test_folds_are_balanced_seeded_and_stratified_by_size_and_source():
    names = [f"{source}_{i:03d}" for source in ("AA", "BB") for i in range(20)]
    sizes = {name: float(i % 20) for i, name in enumerate(names)}
    folds = assign_folds(patients(*names), sizes, 5, seed=0)
    assert folds == assign_folds(patients(*reversed(names)), sizes, 5, seed=0)
    assert folds != assign_folds(patients(*names), sizes, 5, seed=1)
    for source in ("AA", "BB"):
        for quarter in range(4):  # each run of five sizes meets every fold once
            chosen = [f"{source}_{i:03d}" for i in range(5 * quarter, 5 * quarter + 5)]
            assert sorted(folds[name] for name in chosen) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("form", ["P{:03d}", "HGG{:03d}", "sub-P{:03d}", "SITE{:02d}"])
def test_names_of_which_most_would_be_of_a_small_source_are_stratified_by_size_alone(form):
    names = [form.format(i) if form[0] != "S" else f"{form.format(i // 4)}_{i}" for i in range(20)]
    sizes = {name: float(i * 7 % 20) for i, name in enumerate(names)}
    folds = assign_folds(patients(*names), sizes, 5, seed=0)
    by_size = sorted(names, key=sizes.__getitem__)
    assert all(sorted(folds[name] for name in by_size[i : i + 5]) == [0, 1, 2, 3, 4] for i in range(0, 20, 5))


def test_examinations_of_a_patient_share_a_fold():
    names = [f"BraTS-GLI-{i:05d}-{j:03d}" for i in range(6) for j in range(3)]
    folds = assign_folds(patients(*names), dict.fromkeys(names, 1.0), 3, seed=0)
    assert all(len({folds[name] for name in names[i : i + 3]}) == 1 for i in range(0, 18, 3))


@pytest.mark.parametrize("folds", [0, 7])
def test_a_number_of_folds_that_cannot_be_is_named(folds):
    names = [f"p_{i}" for i in range(6)]
    with pytest.raises(UserError, match=f"folds is {folds}, .* 6"):
        assign_folds(patients(*names), dict.fromkeys(names, 1.0), folds, seed=0)


def test_a_split_is_kept_or_its_training_list_is_divided():
    names = ["a", "b", "c", "d"]
    split = {"a": 0, "b": 1, "c": 1, "d": 1}
    sizes = dict.fromkeys(names, 1.0)
    assert choose_folds(patients(*names), sizes, split, None, seed=0) == split
    divided = choose_folds(patients(*names), sizes, split, 3, seed=0)
    assert divided.pop("a") == HELD_OUT and sorted(divided.values()) == [0, 1, 2]
    assert sorted(choose_folds(patients(*names), sizes, {}, 4, seed=0).values()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "split, named",
    [
        ({"training": ["a"], "validation": ["a"]}, r"split\.json .*\ba\b"),
        ({"training": ["nobody"], "validation": []}, r"split\.json .*nobody"),
        ({"train": []}, r"split\.json .*'train'"),
    ],
)
def test_a_split_that_does_not_fit_is_named(tmp_path, split, named):
    (tmp_path / "split.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match=named):
        read_split(str(tmp_path / "split.json"), patients("a", "b"))


@pytest.mark.parametrize(
    "names",
    [
        ("P01_V1", "P01_V2", "P02_V1"),
        ("P01.a", "P01.b", "P02.a"),
        ("P01a", "P01b", "P02a"),
        ("P01 scan", "P01 mri", "P02 scan"),
        ("P01v20", "P01v21"),
        ("P01_1", "P01_2"),
        ("P01_scan_one", "P01_mri_two", "P02_x"),
    ],
)
def test_names_that_seem_to_be_of_one_patient_are_warned_of(names, caplog):
    warn_of_parted_patients(patients(*names))
    (message,) = caplog.messages
    assert f"{names[0]} and {names[1]}" in message and "--patient" in message


def test_a_few_cases_in_one_of_several_folders_are_warned_of(caplog):
    warn_of_parted_patients([Case("A", group="P1"), Case("B", group="P1"), Case("C", group="P2")])
    assert "A and B" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        [f"phantom_{i:04d}" for i in range(6)],
        [f"BRATS_{i:03d}" for i in range(20)],
        ["Brats18_CBICA_AAB_1", "Brats18_CBICA_AAP_1", "Brats18_TCIA09_141_1"],
        ["BraTS20_Training_001", "BraTS20_Training_002", "BraTS2021_00001"],
        ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-MET-00002-000"],
        ["UPENN-GBM-00001_11", "UPENN-GBM-00001_21", "UPENN-GBM-00002_11"],
        ["UCSF-PDGM-0004", "UCSF-PDGM-0004_FU003d", "UCSF-PDGM-0005"],
        ["P01_ses-1", "P01_ses-2", "P02_ses-1"],
    ],
)
def test_names_that_tell_the_patient_are_not_warned_of(names, caplog):
    warn_of_parted_patients(patients(*names))
    assert not caplog.messages


def test_a_datalist_is_no_split(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [{"case": "a", "fold": 0}], "validation": []}))
    with pytest.raises(UserError, match=r"split .*list\.json.*training.*case names"):
        read_split(str(path), patients("a"))
