"""Reading datalists: what training and validation get, and settings that do not fit."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from conftest import seeing
from scripts.data.entries import datalist_images
from scripts.data.make_datalist import make_datalist
from scripts.data.training_cases import has_gaps, label_values, load_cases
from scripts.data.transforms import SelectChannelsd
from scripts.errors import UserError
from scripts.files import read_json, write_json
from scripts.inference.checked_images import CheckedImages


def test_training_gets_every_sequence_and_validation_the_students(cohort):
    parts = load_cases(str(cohort / "datalist.json"), str(cohort / "data"), 1, "t1", seeing(both=["flair", "t1ce"]))
    assert set(parts["training"][0]) == {"case", "patient", "image", "flair", "t1ce", "label"}
    assert set(parts["validation"][0]) == {"case", "patient", "image", "label"}
    assert parts["training"][0]["image"].endswith("_t1.nii.gz")
    assert [len(parts["training"]), len(parts["validation"])] == [4, 2]
    stacked = load_cases(str(cohort / "datalist.json"), str(cohort / "data"), student_sequence=["t1", "t2"])
    assert [Path(p).name.split("_")[-1] for p in stacked["training"][0]["image"]] == ["t1.nii.gz", "t2.nii.gz"]


def test_without_a_fold_every_patient_is_for_training_and_the_log_says_what_scores_mean(cohort, caplog):
    parts = load_cases(str(cohort / "datalist.json"), str(cohort / "data"), None, "t1ce", seeing(flair=["flair"]))
    names = [[entry["case"] for entry in part] for part in parts.values()]
    assert names[0] == names[1] and len(set(names[0])) == 6
    assert "flair" in parts["training"][0] and "flair" not in parts["validation"][0]
    assert "fold is null" in caplog.text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"datalist": ""}, "--datalist"),
        ({"datalist": "none.json"}, r"datalist none\.json"),
        ({"dataset_dir": "none"}, "dataset_dir is 'none'"),
        ({"dataset_dir": "."}, "^dataset_dir . holds none of the datalist's 30 files, such as .*: give the folder"),
        ({"fold": 7}, r"fold is 7, .*\[0, 1, 2\]"),
        ({"student_sequence": "t3"}, "missing t3"),
    ],
)
def test_settings_that_do_not_fit_are_named(cohort, options, message):
    with pytest.raises(UserError, match=message):
        load_cases(**{"datalist": str(cohort / "datalist.json"), "dataset_dir": str(cohort / "data"), **options})


def test_a_folder_without_any_file_of_the_list_is_named_once_in_prediction_too(cohort, tmp_path):
    with pytest.raises(UserError, match=f"^dataset_dir {tmp_path} holds none of the datalist's 30 files"):
        datalist_images(str(cohort / "datalist.json"), str(tmp_path))


def test_training_cases_may_lack_sequences_and_labels_but_validation_cases_have_a_label(cohort):
    document = read_json(str(cohort / "datalist.json"), "datalist")
    train = [entry for entry in document["training"] if entry["fold"] == 1]
    test = [entry for entry in document["training"] if entry["fold"] == 0]
    alone = next(entry for entry in document["training"] if entry["fold"] == 2)
    del train[0]["flair"], train[1]["label"], train[1]["t1"], test[0]["label"]
    for key in ("fold", "label", "flair", "t1", "t2"):
        del alone[key]
    write_json(cohort / "datalist.json", document)
    teachers = seeing(flair=["flair"], both=["t1", "t2"])
    cases = load_cases(str(cohort / "datalist.json"), str(cohort / "data"), teachers=teachers)
    has = {entry["case"]: set(entry) - {"case", "patient", "image"} for entry in cases["training"]}
    assert has[train[0]["case"]] == {"t1", "t2", "label"}
    assert has[train[1]["case"]] == {"flair", "t2"}
    assert alone["case"] not in has  # nobody can teach anything about it
    assert [entry["case"] for entry in cases["validation"]] == [test[1]["case"]]
    assert has_gaps(cases["training"], ["flair"]) and not has_gaps(cases["validation"], [])
    labels_alone = load_cases(str(cohort / "datalist.json"), str(cohort / "data"))
    assert all("label" in entry for entry in labels_alone["training"])


def test_cases_without_a_label_are_used_if_a_teacher_is_frozen_or_can_learn(cohort, caplog):
    document = read_json(str(cohort / "datalist.json"), "datalist")
    without = document["training"][-1]
    for entry in document["training"]:
        for key in ("fold", "label") if entry is without else ("flair",):
            del entry[key]
    write_json(cohort / "datalist.json", document)
    options = {"datalist": str(cohort / "datalist.json"), "dataset_dir": str(cohort / "data"), "fold": None}
    used = [case["case"] for case in load_cases(**options, teachers=seeing(flair=["flair"]))["training"]]
    assert without["case"] not in used and len(used) == len(document["training"]) - 1
    assert "1 case(s) are not used for training" in caplog.text and without["case"] in caplog.text
    taught = load_cases(**options, teachers=seeing(["flair"], flair=["flair"]))["training"]
    assert without["case"] in [case["case"] for case in taught]


def test_a_faulty_case_teaches_no_teacher(cohort):
    """The only labelled case with FLAIR is faulty: then nobody can teach what only FLAIR shows."""
    document = read_json(str(cohort / "datalist.json"), "datalist")
    faulty, without = document["training"][0], document["training"][-1]
    for entry in document["training"]:
        for key in ("fold", "label") if entry is without else () if entry is faulty else ("flair",):
            del entry[key]
    write_json(cohort / "datalist.json", document)
    (cohort / "data" / faulty["flair"]).write_bytes(b"no volume")
    options = {"datalist": str(cohort / "datalist.json"), "dataset_dir": str(cohort / "data"), "fold": None}
    cases = load_cases(**options, teachers=seeing(flair=["flair"]), strict=False)
    used = {case["case"] for case in cases["training"]}
    assert used == {entry["case"] for entry in document["training"]} - {faulty["case"], without["case"]}


def rewrite_labels(cohort, change):
    for path in (cohort / "data").glob("*/*_seg.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


def test_a_volume_that_was_replaced_since_the_datalist_was_made_is_a_fault(cohort):
    document = read_json(str(cohort / "datalist.json"), "datalist")
    one, other = (cohort / "data" / entry["image"] for entry in document["training"][:2])
    moved = nib.load(one)  # other bytes of the same volume are no fault
    nib.save(nib.Nifti1Image(moved.get_fdata(), moved.affine, moved.header), one)
    options = str(cohort / "datalist.json"), str(cohort / "data"), None
    load_cases(*options)
    one.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match=f"{document['training'][0]['case']} .* is not the volume"):
        load_cases(*options)
    load_cases(*options, student_sequence="t1")  # its checksum is not that of T1ce


def test_classes_that_no_label_holds_are_warned_of_by_name(cohort, caplog):
    options = {"datalist": str(cohort / "datalist.json"), "dataset_dir": str(cohort / "data")}
    load_cases(**options)
    assert "whole-tumour" not in caplog.text
    rewrite_labels(cohort, lambda label: (label > 0).astype(np.uint8))
    for read in (
        lambda: load_cases(**options),
        lambda: make_datalist(options["dataset_dir"], str(cohort / "new.json")),
    ):
        caplog.clear()
        read()
        (warning,) = [message for message in caplog.messages if "whole-tumour" in message]
        assert "ED (2)" in warning and "ET (4)" in warning and "NCR (1)" not in warning


def test_without_data_there_are_no_cases_and_the_values_of_brats_2021():
    assert load_cases("", "") == {"training": [], "validation": []}
    assert label_values("") == [0, 1, 2, 4]


def test_images_of_a_datalist_are_all_its_cases_labelled_or_not(cohort, caplog):
    document = read_json(str(cohort / "datalist.json"), "datalist")
    document["testing"] = [document["training"].pop()]
    write_json(cohort / "datalist.json", document)
    images = datalist_images(str(cohort / "datalist.json"), str(cohort / "data"), ["t2"])
    assert len(images) == 6 and all(set(image) == {"case", "patient", "image"} for image in images)
    assert all(image["image"].endswith(f"{image['case']}_t2.nii.gz") for image in images)
    del document["testing"][0]["t2"]
    write_json(cohort / "datalist.json", document)
    left = datalist_images(str(cohort / "datalist.json"), str(cohort / "data"), ["t2"])
    assert left == images[:5] and f"without t2, which the network sees: {images[5]['case']}." in caplog.text
    for entry in document["training"]:
        del entry["t2"]
    write_json(cohort / "datalist.json", document)
    with pytest.raises(UserError, match=r"datalist\.json has no case with t2"):
        datalist_images(str(cohort / "datalist.json"), str(cohort / "data"), ["t2"])


def test_links_to_patients_in_dataset_dir_are_followed(cohort):
    folder = cohort / "data" / "phantom_0000"
    folder.rename(cohort / "elsewhere")
    folder.symlink_to(cohort / "elsewhere")
    parts = load_cases(str(cohort / "datalist.json"), str(cohort / "data"))
    assert sum(map(len, parts.values())) == 6


@pytest.mark.parametrize(
    "labels",
    [{"x": "NCR"}, {"0": ["background"]}, {"0": "background", "1": "NCR", "2": "ED", "4": "ET", "5": "cavity"}],
)
def test_labels_that_do_not_name_each_class_once_are_named(labels, cohort):
    document = read_json(str(cohort / "datalist.json"), "datalist")
    write_json(cohort / "datalist.json", document | {"labels": labels})
    with pytest.raises(UserError, match="labels is "):
        label_values(str(cohort / "datalist.json"))


def test_a_datalist_without_cases_is_no_work(cohort):
    write_json(cohort / "datalist.json", {"training": []})
    with pytest.raises(UserError, match=r"datalist\.json"):
        datalist_images(str(cohort / "datalist.json"), str(cohort / "data"))


def test_a_file_of_two_sequences_can_be_predicted(cohort_source, tmp_path):
    image = nib.load(cohort_source / "data" / "phantom_0000" / "phantom_0000_t1ce.nii.gz")
    voxels = image.get_fdata(dtype=np.float32)
    nib.save(nib.Nifti1Image(np.stack([voxels[::-1], voxels], -1), image.affine), tmp_path / "p.nii.gz")
    entry = {"case": "p", "image": "p.nii.gz", "flair": "p.nii.gz", "channels": {"flair": 0, "t1ce": 1}}
    write_json(tmp_path / "list.json", {"testing": [entry], "labels": {"0": "background"}})
    images = datalist_images(str(tmp_path / "list.json"), str(tmp_path))
    steps = [LoadImaged("image"), EnsureChannelFirstd("image"), SelectChannelsd("image")]
    (loaded,) = CheckedImages(images, Compose(steps))
    assert "fault" not in loaded and np.array_equal(loaded["image"][0], voxels)
