"""Datalists: folds, editions, faults, and what training reads from them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from conftest import real_data
from scripts.cases import Case
from scripts.datalist import assign_folds, make_datalist
from scripts.errors import UserError
from scripts.loading import label_values, load_cases


def patients(*names):
    return [Case(name) for name in names]


def rewrite(path, change, dtype=None):
    """Replace a NIfTI file by ``change(voxels)``."""
    image = nib.load(path)
    voxels = change(np.asarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(voxels if dtype is None else voxels.astype(dtype), image.affine), path)


def scan(cohort, case, role):
    name = f"phantom_{case:04d}"
    return cohort / "data" / name / f"{name}_{role}.nii.gz"


def make(cohort, **options):
    make_datalist(str(cohort / "data"), str(cohort / "new.json"), **{"folds": 2, **options})
    return json.loads((cohort / "new.json").read_text())


def test_a_folder_in_the_place_of_the_output_is_refused(cohort):
    with pytest.raises(UserError, match="output is .*, expected the path of a .json file to write"):
        make_datalist(str(cohort / "data"), str(cohort), folds=2)
    assert not list(cohort.parent.glob("*.part"))


def test_the_form_is_decathlons_with_t1ce_as_image(cohort):
    document = make(cohort)
    items = load_decathlon_datalist(str(cohort / "new.json"), data_list_key="training", base_dir=str(cohort / "data"))
    assert len(items) == 6
    assert all(Path(item["image"]).name.endswith("_t1ce.nii.gz") and Path(item["label"]).is_file() for item in items)
    assert {item["fold"] for item in items} == {0, 1}
    assert document["labels"] == {"0": "background", "1": "NCR", "2": "ED", "4": "ET"}
    assert document["testing"] == []


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


def test_examinations_of_a_patient_share_a_fold():
    names = [f"BraTS-GLI-{i:05d}-{j:03d}" for i in range(6) for j in range(3)]
    folds = assign_folds(patients(*names), dict.fromkeys(names, 1.0), 3, seed=0)
    assert all(len({folds[name] for name in names[i : i + 3]}) == 1 for i in range(0, 18, 3))


def test_a_split_file_gives_fold_0_and_1(cohort, caplog):
    split = {"training": ["phantom_0000", "phantom_0002"], "validation": ["phantom_0005"]}
    (cohort / "split.json").write_text(json.dumps(split))
    document = make(cohort, split=str(cohort / "split.json"), folds=None)
    folds = {entry["case"]: entry["fold"] for entry in document["training"]}
    assert folds == {"phantom_0000": 1, "phantom_0002": 1, "phantom_0005": 0}
    assert "Left out 3 case(s) that the split does not name: phantom_0001, phantom_0003, phantom_0004" in caplog.text


def test_folds_of_a_split_are_of_its_training_list_alone(cohort):
    names = [f"phantom_{i:04d}" for i in range(6)]
    (cohort / "split.json").write_text(json.dumps({"training": names[:4], "validation": names[4:]}))
    document = make(cohort, split=str(cohort / "split.json"), folds=2)
    assert {entry["case"] for entry in document["training"]} == set(names[:4])
    assert sorted(entry["fold"] for entry in document["training"]) == [0, 0, 1, 1]
    with pytest.raises(UserError, match="folds is 0, expected 1 to 4"):
        make(cohort, split=str(cohort / "split.json"), folds=0)


@pytest.mark.parametrize(
    "split, message",
    [
        ({"training": ["phantom_0000"], "validation": ["phantom_0000"]}, "phantom_0000 in training and validation"),
        ({"training": ["nobody"], "validation": []}, "not in the dataset, or have no label: nobody"),
        ({"train": []}, r"keys \['train'\], expected training and validation"),
    ],
)
def test_splits_that_do_not_fit_are_refused(cohort, split, message):
    (cohort / "split.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match=message):
        make(cohort, split=str(cohort / "split.json"), folds=None)


def test_et_is_detected_from_the_data(cohort):
    assert label_values(str(cohort / "datalist.json")) == [0, 1, 2, 4]
    for case in range(6):
        rewrite(scan(cohort, case, "seg"), lambda label: np.where(label == 4, 3, label), np.uint8)
    make(cohort)
    assert label_values(str(cohort / "new.json")) == [0, 1, 2, 3]


def test_a_case_of_another_edition_is_a_fault(cohort):
    rewrite(scan(cohort, 1, "seg"), lambda label: np.where(label == 4, 3, label), np.uint8)
    with pytest.raises(UserError, match="phantom_0001 .*ET is 3 in this label, 4 in most"):
        make(cohort)


def test_cases_without_labels_are_for_testing(cohort):
    (cohort / "data" / "more").mkdir()
    for case in (4, 5):
        scan(cohort, case, "seg").unlink()
        folder = scan(cohort, case, "seg").parent
        folder.rename(cohort / "data" / "more" / folder.name)
    document = make(cohort)
    assert [entry["case"] for entry in document["testing"]] == ["phantom_0004", "phantom_0005"]
    assert all("label" not in entry and "fold" not in entry for entry in document["testing"])


def test_t1ce_alone_is_enough_if_one_says_so(cohort):
    for path in cohort.rglob("*.nii.gz"):
        if not path.name.endswith(("_t1ce.nii.gz", "_seg.nii.gz")):
            path.unlink()
    with pytest.raises(UserError, match="missing flair"):
        make(cohort)
    assert [{*entry} & {"image", "flair", "t1", "t2"} for entry in make(cohort, sequences="t1ce")["training"]] == [
        {"image"}
    ] * 6
    (cohort / "data" / "phantom_0003" / "phantom_0003_t1ce.nii.gz").unlink()
    with pytest.raises(UserError, match="missing t1ce"):
        make(cohort, sequences="t1ce")
    with pytest.raises(UserError, match=r"sequences are \['flair'\], expected t1ce"):
        make(cohort, sequences="flair")


def test_msd_keeps_its_channel_and_label_order(tmp_path):
    for i in range(2):
        image = np.stack([np.full((4, 4, 4), 10.0 * (channel + 1) + i) for channel in range(4)], axis=-1)
        label = np.zeros((4, 4, 4), np.uint8)
        label[0], label[1], label[2] = 1, 2, 3
        for folder, voxels in (("imagesTr", image), ("labelsTr", label)):
            (tmp_path / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / folder / f"BRATS_{i:03d}.nii.gz")
    make_datalist(str(tmp_path), str(tmp_path / "list.json"), folds=2)
    assert label_values(str(tmp_path / "list.json")) == [0, 2, 1, 3]
    parts = load_cases(str(tmp_path / "list.json"), str(tmp_path), sequences=["flair", "t2"])
    assert parts["training"][0]["channels"] == {"image": [2], "flair": 0, "t2": 3}


# every kind of fault, told by what was done to case 2
FAULTS = {
    "missing": (lambda c: scan(c, 2, "t2").unlink(), "missing t2 .*or do without"),
    "no label": (lambda c: scan(c, 2, "seg").unlink(), "missing label"),
    "truncated": (
        lambda c: scan(c, 2, "t1").write_bytes(scan(c, 2, "t1").read_bytes()[:5000]),
        "unreadable or truncated",
    ),
    "text": (lambda c: scan(c, 2, "t1ce").write_text("no image"), "unreadable or truncated"),
    "shape": (lambda c: rewrite(scan(c, 2, "flair"), lambda v: v[:-1]), "shape"),
    "4-D": (lambda c: rewrite(scan(c, 2, "t2"), lambda v: np.stack([v, v], -1)), "expected a 3-D volume"),
    "2-D": (lambda c: rewrite(scan(c, 2, "t2"), lambda v: v[..., 0]), "expected a 3-D volume"),
    "non-finite": (lambda c: rewrite(scan(c, 2, "t1"), lambda v: np.where(v > 0, np.nan, v)), "non-finite voxels"),
    "empty": (lambda c: rewrite(scan(c, 2, "t1ce"), np.zeros_like), "empty image"),
    "negative": (lambda c: rewrite(scan(c, 2, "t1ce"), lambda v: -abs(v)), "empty image .no voxel above 0"),
    "label": (lambda c: rewrite(scan(c, 2, "seg"), lambda v: np.where(v == 1, 9, v)), r"unknown label values \[9\]"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_are_found_before_training_and_when_the_datalist_is_made(cohort, kind, caplog):
    spoil, message = FAULTS[kind]
    spoil(cohort)
    with pytest.raises(UserError, match=f"(?s)phantom_0002.*{message}"):
        make(cohort)
    assert not (cohort / "new.json").exists()
    options = {"dataset_dir": str(cohort / "data"), "sequences": ["flair", "t2", "t1"]}
    with pytest.raises(UserError, match="(?s)case .*remedy.*phantom_0002"):
        load_cases(str(cohort / "datalist.json"), fold=fold_but_of(cohort, 2), **options)
    parts = load_cases(str(cohort / "datalist.json"), fold=fold_but_of(cohort, 2), strict=False, **options)
    names = {entry["case"] for part in parts.values() for entry in part}
    assert len(names) == 5
    assert "phantom_0002" not in names
    assert "Left out 1 case(s) with faults: phantom_0002." in caplog.text


def fold_but_of(cohort, case):
    entries = json.loads((cohort / "datalist.json").read_text())["training"]
    return next(e["fold"] for e in entries if e["fold"] != entries[case]["fold"])


def test_an_affine_that_differs_is_a_fault(cohort):
    image = nib.load(path := scan(cohort, 3, "t2"))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine + np.eye(4)[:, [3, 0, 1, 2]]), path)
    with pytest.raises(UserError, match=r"phantom_0003_t2\.nii\.gz +affine differs"):
        make(cohort)


def test_all_faults_are_reported_together(cohort):
    scan(cohort, 0, "t2").unlink()
    scan(cohort, 4, "seg").write_bytes(b"")
    with pytest.raises(UserError, match=r"(?s)phantom_0000.*phantom_0004.*2 fault\(s\) in 2 case\(s\)"):
        make(cohort)
    assert len(make(cohort, strict=False)["training"]) == 4


def test_a_patient_in_two_folds_is_found_by_name_and_by_content(cohort):
    document = json.loads((cohort / "datalist.json").read_text())
    by_fold = {entry["fold"]: entry for entry in document["training"]}
    by_fold[0]["patient"] = by_fold[1]["patient"] = "one"
    (cohort / "datalist.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="duplicate patient"):
        load_cases(str(cohort / "datalist.json"), str(cohort / "data"))
    scan(cohort, 1, "t1ce").write_bytes(scan(cohort, 0, "t1ce").read_bytes())
    split = {"training": ["phantom_0000"], "validation": ["phantom_0001"]}
    (cohort / "split.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match="duplicate patient: fold 0 here, fold 1 as phantom_0000"):
        make(cohort, split=str(cohort / "split.json"), folds=None)
    with pytest.raises(UserError, match="duplicate patient: held out here, fold 0 as phantom_0000"):
        make(cohort, split=str(cohort / "split.json"), folds=1)


def test_training_gets_every_sequence_and_validation_the_students(cohort):
    parts = load_cases(str(cohort / "datalist.json"), str(cohort / "data"), 1, "t1", ["flair", "t1ce"])
    assert set(parts["training"][0]) == {"case", "image", "flair", "t1ce", "label"}
    assert set(parts["validation"][0]) == {"case", "image", "label"}
    assert parts["training"][0]["image"].endswith("_t1.nii.gz")
    assert [len(parts["training"]), len(parts["validation"])] == [4, 2]
    stacked = load_cases(str(cohort / "datalist.json"), str(cohort / "data"), student_sequence=["t1", "t2"])
    assert [Path(p).name.split("_")[-1] for p in stacked["training"][0]["image"]] == ["t1.nii.gz", "t2.nii.gz"]


def test_without_a_fold_every_patient_is_for_training_and_the_log_says_what_scores_mean(cohort, caplog):
    parts = load_cases(str(cohort / "datalist.json"), str(cohort / "data"), None, "t1ce", ["flair"])
    names = [[entry["case"] for entry in part] for part in parts.values()]
    assert names[0] == names[1] and len(set(names[0])) == 6
    assert "flair" in parts["training"][0] and "flair" not in parts["validation"][0]
    assert "those of training patients" in caplog.text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"datalist": ""}, "make one with python -m scripts.datalist"),
        ({"datalist": "none.json"}, "none.json cannot be read"),
        ({"fold": 7}, r"fold is 7, expected one of \[0, 1, 2\]"),
        ({"student_sequence": "t3"}, r"\['t3'\] are unknown, expected some of"),
    ],
)
def test_settings_that_do_not_fit_are_named(cohort, options, message):
    with pytest.raises(UserError, match=message):
        load_cases(**{"datalist": str(cohort / "datalist.json"), "dataset_dir": str(cohort / "data"), **options})


@pytest.mark.parametrize("folds", [0, 7])
def test_a_number_of_folds_that_cannot_be_is_named(cohort, folds):
    with pytest.raises(UserError, match=f"folds is {folds}, expected 1 to 6"):
        make(cohort, folds=folds)


def test_the_command_ends_with_a_sentence_and_code_1(command, tmp_path):
    result = command("scripts.datalist", "--dataset_dir", tmp_path / "none", "--output", tmp_path / "x.json")
    assert result.returncode == 1
    assert "is not a folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_real_patients_get_their_split(tmp_path):
    folder = real_data("brats_2mm")
    make_datalist(str(folder), str(tmp_path / "list.json"), split=str(folder / "split.json"))
    split = json.loads((folder / "split.json").read_text())
    entries = json.loads((tmp_path / "list.json").read_text())["training"]
    assert {e["case"] for e in entries if e["fold"] == 0} == set(split["validation"])
    assert {e["case"] for e in entries if e["fold"] == 1} == set(split["training"])
