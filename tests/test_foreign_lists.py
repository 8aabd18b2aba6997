"""Datalists of other tools are read where they hold what is needed, or named with what they lack."""

import json

import pytest

from scripts.data.foreign_lists import read_datalist
from scripts.errors import UserError
from scripts.labels import SEQUENCES

MSD = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}],
    "test": ["./imagesTs/BRATS_485.nii.gz"],
}


def monai_entry(case="BraTS2021_00000", fold=0, endings=("flair", "t1ce", "t1", "t2"), folder="TrainingData"):
    name = f"{folder}/{case}/{case}"
    return {"fold": fold, "image": [f"{name}_{ending}.nii.gz" for ending in endings], "label": f"{name}_seg.nii.gz"}


@pytest.fixture
def written(tmp_path):
    def write(document):
        (tmp_path / "list.json").write_text(json.dumps(document))
        return str(tmp_path / "list.json")

    return write


@pytest.mark.parametrize("order", [("flair", "t1ce", "t1", "t2"), ("t2", "t1", "t1ce", "flair")])
def test_folds_of_monai_become_ours_whatever_the_order_of_files(order, written):
    document = {"training": [monai_entry("BraTS2021_00000", 0, order), monai_entry("BraTS2021_00002", 1, order)]}
    read = read_datalist(written(document))
    assert [(entry["case"], entry["fold"]) for entry in read["training"]] == [
        ("BraTS2021_00000", 0),
        ("BraTS2021_00002", 1),
    ]
    first = read["training"][0]
    assert first["image"].endswith("_t1ce.nii.gz") and first["label"].endswith("_seg.nii.gz")
    assert all(first[name].endswith(f"_{name}.nii.gz") for name in SEQUENCES if name != "t1ce")
    assert read["labels"] == {"0": "background", "1": "NCR", "2": "ED", "4": "ET"}


def test_the_dataset_json_of_msd_serves_prediction(written):
    read = read_datalist(written(MSD), folds=False)
    (labelled,), (unlabelled,) = read["training"], read["testing"]
    assert labelled["case"] == "BRATS_001" and unlabelled["case"] == "BRATS_485"
    assert labelled["channels"] == {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}
    assert {labelled[name] for name in ("image", "flair", "t1", "t2")} == {"./imagesTr/BRATS_001.nii.gz"}
    assert read["labels"] == {"0": "background", "1": "ED", "2": "NCR", "3": "ET"}


@pytest.mark.parametrize(
    "document, named",
    [
        (MSD, "fold"),
        ({"channel_names": {"0": "T1"}, "labels": {"background": 0}, "numTraining": 3}, "nnU-Net"),
        ({"training": {"a": 1}}, "training"),
        ({"training": ["a.nii.gz"]}, "training::0"),
        ({"training": [{"case": "a", "image": "a.nii.gz", "label": "b.nii.gz", "fold": "0"}]}, "fold"),
        ({"training": [{"case": "a", "label": "b.nii.gz", "fold": 0}]}, "image"),
        ({"training": [{"case": "a", "image": 3, "label": "b.nii.gz", "fold": 0}]}, "image"),
        ({"training": [monai_entry(endings=("flair", "t1ce", "t1", "x"))]}, "_x.nii.gz"),
        ({"training": [monai_entry(endings=("flair", "t1", "t2"))]}, "T1ce"),
        (MSD | {"modality": {"0": "CT"}}, "'ct'"),
        (MSD | {"labels": {"0": "background", "1": "cancer"}}, "cancer"),
        ([], "list"),
    ],
)
def test_what_is_missing_is_named(document, named, written):
    path = written(document)
    with pytest.raises(UserError) as error:
        read_datalist(path)
    assert path in str(error.value) and named in str(error.value)


def test_our_own_datalist_is_read_as_it_is(cohort_source):
    path = cohort_source / "datalist.json"
    assert read_datalist(str(path)) == json.loads(path.read_text())
