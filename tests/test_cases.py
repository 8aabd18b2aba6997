"""Patients and files are found in every edition's layout."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.errors import UserError
from scripts.folders.case import Case
from scripts.folders.cases import find_cases, find_images
from scripts.folders.choice import Choice
from scripts.folders.map_files import case_of, find_label_maps, maps_of

OLD = ("flair", "t1", "t1ce", "t2", "seg")


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), folder / name)


def roles(case):
    return set(case.files)


ALL = {"flair", "t1", "t1ce", "t2", "label"}


def test_links_to_patients_are_followed(tmp_path):
    touch(tmp_path / "store" / "A_1", *(f"A_1_{role}.nii.gz" for role in OLD))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "A_1").symlink_to(tmp_path / "store" / "A_1")
    (case,) = find_cases(tmp_path / "linked")
    assert case.name == "A_1" and roles(case) == ALL
    assert [image["case"] for image in find_images(str(tmp_path / "linked"))] == ["A_1"]


def test_brats_2018_in_hgg_and_lgg_folders(tmp_path):
    for group, name in (("HGG", "Brats18_CBICA_AAB_1"), ("LGG", "Brats18_TCIA09_141_1")):
        touch(tmp_path / group / name, *(f"{name}_{role}.nii.gz" for role in OLD))
    first, second = find_cases(tmp_path)
    assert (first.name, first.patient, first.source) == (
        "Brats18_CBICA_AAB_1",
        "Brats18_CBICA_AAB",
        "HGG/Brats18/CBICA",
    )
    assert second.source == "LGG/Brats18/TCIA09"
    assert roles(first) == roles(second) == ALL


def test_brats_2020_uncompressed_with_its_misnamed_segmentation(tmp_path):
    name = "BraTS20_Training_355"
    touch(tmp_path / name, *(f"{name}_{role}.nii" for role in OLD[:-1]), "W39_1998.09.19_Segm.nii")
    (case,) = find_cases(tmp_path)
    assert case.name == case.patient == name
    assert case.files["label"].name == "W39_1998.09.19_Segm.nii"
    assert roles(case) == ALL


def test_brats_2023_names_and_examinations_of_one_patient(tmp_path):
    for name in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001"):
        touch(tmp_path / name, *(f"{name}-{role}.nii.gz" for role in ("t1c", "t1n", "t2f", "t2w", "seg")))
    cases = find_cases(tmp_path)
    assert [case.patient for case in cases] == ["BraTS-GLI-00005"] * 2
    assert {case.edition for case in cases} == {"2023"}
    assert roles(cases[0]) == ALL
    assert cases[0].files["flair"].name.endswith("t2f.nii.gz")
    assert cases[0].files["t1ce"].name.endswith("t1c.nii.gz")


def test_patients_side_by_side_in_one_folder(tmp_path):
    touch(tmp_path, *(f"case_{i}_{role}.nii.gz" for i in (1, 2) for role in OLD))
    cases = find_cases(tmp_path)
    assert [(case.name, case.patient) for case in cases] == [("case_1", "case_1"), ("case_2", "case_2")]


def test_msd_takes_the_channel_order_of_its_own_file(tmp_path):
    touch(tmp_path / "imagesTr", "BRATS_001.nii.gz", "._BRATS_001.nii.gz")
    touch(tmp_path / "labelsTr", "BRATS_001.nii.gz")
    touch(tmp_path / "imagesTs", "BRATS_485.nii.gz")
    train, test = find_cases(tmp_path)
    assert train.channels == {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}
    assert "label" in train.files
    assert "label" not in test.files
    modality = {"0": "T1w", "1": "t1gd", "2": "T2w", "3": "FLAIR"}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": modality}))
    (case, _) = find_cases(tmp_path)
    assert case.channels == {"t1": 0, "t1ce": 1, "t2": 2, "flair": 3} and case.label_values == (0, 2, 1, 3)
    labels = {"0": "background", "1": "necrosis", "2": "edema", "3": "enhancing"}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": modality, "labels": labels}))
    assert find_cases(tmp_path)[0].label_values == (0, 1, 2, 3)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match=f"dataset_dir {tmp_path}/none"):
        find_cases(tmp_path / "none")
    with pytest.raises(UserError, match=f"dataset_dir {tmp_path} "):
        find_cases(tmp_path)
    for group in ("a", "b"):
        touch(tmp_path / group / "x1", "x1_t1.nii.gz", "x1_t2.nii.gz")
    with pytest.raises(UserError, match=r"\bx1 .* a and b"):
        find_cases(tmp_path)


def test_a_dataset_file_with_other_modalities_is_named(tmp_path):
    touch(tmp_path / "imagesTr", "BRATS_001.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "CT"}}))
    with pytest.raises(UserError, match=r"dataset\.json.*CT"):
        find_cases(tmp_path)


def test_images_of_a_brats_folder_have_the_wanted_sequence(tmp_path):
    touch(tmp_path / "p1", *(f"p1_{role}.nii.gz" for role in OLD))
    touch(tmp_path / "p2", *(f"p2-{role}.nii.gz" for role in ("t1c", "t1n", "t2f", "t2w")))
    found = find_images(tmp_path)
    assert [(item["case"], item["image"].split("/")[-1]) for item in found] == [
        ("p1", "p1_t1ce.nii.gz"),
        ("p2", "p2-t1c.nii.gz"),
    ]
    assert [item["image"].split("/")[-1] for item in find_images(tmp_path, "t1")] == ["p1_t1.nii.gz", "p2-t1n.nii.gz"]


def test_images_of_a_plain_folder_and_one_file(tmp_path):
    touch(tmp_path, "anna.NII.gz", "bert_scan.nii", "bert_seg.nii")
    (tmp_path / "notes.txt").write_text("")
    assert [item["case"] for item in find_images(tmp_path)] == ["anna", "bert_scan"]
    (tmp_path / "anna_entropy.nii.gz").touch()  # from a prediction into the same folder
    assert [item["case"] for item in find_images(tmp_path)] == ["anna", "bert_scan"]
    path = tmp_path / "bert_scan.nii"
    assert find_images(path) == [{"image": str(path), "case": "bert_scan"}]
    with pytest.raises(UserError, match=r"bert_seg\.nii .*seg.*t1ce"):
        find_images(tmp_path / "bert_seg.nii")


def test_a_pattern_that_does_not_fit_the_one_file_is_named(tmp_path):
    touch(tmp_path, "a_t1ce.nii.gz")
    path = tmp_path / "a_t1ce.nii.gz"
    assert [item["case"] for item in find_images(path, choice=Choice({"t1ce": "*_t1ce.nii.gz"}))] == ["a"]
    with pytest.raises(UserError, match=rf"t1ce is '\*_post.nii.gz', which does not fit the name of {path}:"):
        find_images(path, choice=Choice({"t1ce": "*_post.nii.gz"}))


@pytest.mark.parametrize(
    "name, reason", [("a.mha", "another image format: convert"), ("a.txt", "no NIfTI file"), ("a.nii.zip", "unpack")]
)
def test_one_file_that_is_no_nifti_is_named_with_the_reason(name, reason, tmp_path):
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=f"dataset_dir {tmp_path / name}: .*{reason}"):
        find_images(tmp_path / name)


def test_files_that_tell_no_sequence_are_named_where_others_do(tmp_path, caplog):
    caplog.set_level("WARNING")  # a bundle that ran before may have set another
    touch(tmp_path, "a_t1ce.nii.gz", "a_flair.nii.gz", "b.nii.gz")
    assert [item["case"] for item in find_images(tmp_path)] == ["a"]
    (warning,) = caplog.messages
    assert "b.nii.gz" in warning and "a_flair" not in warning


def test_images_of_one_name_and_places_without_images_are_named(tmp_path):
    case = "BraTS2021_00001"
    for folder in ("a", "b"):
        touch(tmp_path / folder, f"{case}_t1ce.nii.gz")
    with pytest.raises(UserError, match=rf"a/{case}_t1ce\.nii\.gz .*b/{case}_t1ce\.nii\.gz "):
        find_images(tmp_path)
    with pytest.raises(UserError, match=f"dataset_dir {tmp_path}/none"):
        find_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="dataset_dir .*empty .*t1ce"):
        find_images(tmp_path / "empty")


def test_a_folder_names_files_that_are_called_after_their_sequence_alone(tmp_path):
    for patient in ("p1", "p2"):
        touch(tmp_path / patient, *(f"{role}.nii.gz" for role in OLD))
    assert [(item["case"], Path(item["image"]).name) for item in find_images(tmp_path)] == [
        ("p1", "t1ce.nii.gz"),
        ("p2", "t1ce.nii.gz"),
    ]
    cases = find_cases(tmp_path)
    assert [case.name for case in cases] == ["p1", "p2"]
    assert all(sorted(case.files) == ["flair", "label", "t1", "t1ce", "t2"] for case in cases)


def test_label_maps_are_found_by_case(tmp_path):
    touch(tmp_path / "named", "a_seg.nii.gz", "d_seg.nii.gz", "a_entropy.nii.gz", "b.nii.gz", "c_t1ce.nii.gz")
    maps = find_label_maps(tmp_path / "named", "pred")
    assert {case: path.name for case, path in maps.items()} == {"a": "a_seg.nii.gz", "d": "d_seg.nii.gz"}
    touch(tmp_path / "plain", "b.nii.gz", "a.nii", "c_t1ce.nii.gz", "a_entropy.nii.gz")
    assert list(find_label_maps(tmp_path / "plain", "pred")) == ["a", "b"]
    touch(tmp_path / "twice", "a.nii", "a.nii.gz")
    with pytest.raises(UserError, match=r"pred: .*twice/a\.nii .*twice/a\.nii\.gz "):
        find_label_maps(tmp_path / "twice", "pred")
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "none"):
        with pytest.raises(UserError, match=f"pred {tmp_path}/{folder} "):
            find_label_maps(tmp_path / folder, "pred")


def test_files_of_a_prediction_are_named_after_the_case():
    names = ["a_seg.nii.gz", "a_entropy.nii.gz", "a_variance.nii.gz", "a_probabilities.nii.gz", "a_seg.dcm"]
    assert maps_of("out", ["in/a_t1ce.nii.gz", "in/a_t2.nii.gz"]) == [Path("out", name) for name in names]


def test_case_of_a_path():
    assert case_of("some/where/SCAN.V1.NII.GZ") == "SCAN.V1"
    assert case_of("some/where/BraTS2021_00005_t1ce.nii.gz") == "BraTS2021_00005"
    assert case_of("head.nii") == "head"
    assert Case("phantom_0001").patient == "phantom_0001"


@pytest.mark.parametrize("names", [("P1", "p1"), ("Größe", "GRÖSSE")])
def test_names_that_are_one_file_on_disks_that_do_not_tell_capitals_are_not_predicted_into_one_folder(names, tmp_path):
    for folder, name in zip("ab", names):
        touch(tmp_path / folder, f"{name}_t1ce.nii.gz")
    with pytest.raises(
        UserError, match=f"are both t1ce of {names[0]} and {names[1]}, which are one name on many disks"
    ):
        find_images(tmp_path)
    assert len(find_cases(tmp_path)) == 2
