"""Names of public data sets and the user's own names; every other file is named with the reason why it is not used."""

import json
import os
import re
import shutil
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.data.folds import read_split
from scripts.data.make_datalist import make_datalist
from scripts.errors import UserError
from scripts.folders.cases import find_cases, find_images, survey
from scripts.folders.choice import Choice
from scripts.folders.map_files import case_of, find_label_maps
from scripts.folders.schemes import patient_of, read_name
from scripts.inference.worklist import find_work

ROLES = ("flair", "t1", "t1ce", "t2", "label")


def fill(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), root / path)


def names(images):
    return {image["case"]: Path(image["image"]).name for image in images}


# data set: files of one examination with "{}" for its number, case, patient, and files that are left out
KAGGLE = "BraTS2021_0000{0}/BraTS2021_0000{0}_{1}.nii/0000005{0}_{2}.nii"
VSD = "HGG/brats_tcia_pat10{0}_0001/VSD.Brain.XX.O.{1}.5{2}/VSD.Brain.XX.O.{1}.5{2}.nii"
SETS = {
    "BraTS 2015": (
        [VSD.format("{0}", name, i) for i, name in enumerate(("MR_Flair", "MR_T1", "MR_T1c", "MR_T2", "OT"))],
        ("brats_tcia_pat10{0}_0001", "brats_tcia_pat10{0}"),
        [],
    ),
    "BraTS 2019": (
        [f"HGG/BraTS19_CBICA_AA{{0}}_1/BraTS19_CBICA_AA{{0}}_1_{e}.nii" for e in ("flair", "t1", "t1ce", "t2", "seg")],
        ("BraTS19_CBICA_AA{0}_1", "BraTS19_CBICA_AA{0}"),
        [],
    ),
    "BraTS 2024": (
        [f"BraTS-GLI-0000{{0}}-101/BraTS-GLI-0000{{0}}-101-{e}.nii.gz" for e in ("t2f", "t1n", "t1c", "t2w", "seg")],
        ("BraTS-GLI-0000{0}-101", "BraTS-GLI-0000{0}"),
        [],
    ),
    "UPENN-GBM": (
        [
            *(
                f"images_structural/UPENN-GBM-0000{{0}}_11/UPENN-GBM-0000{{0}}_11_{e}.nii.gz"
                for e in ("FLAIR", "T1", "T1GD", "T2")
            ),
            "images_segm/UPENN-GBM-0000{0}_11_segm.nii.gz",
        ],
        ("UPENN-GBM-0000{0}_11", "UPENN-GBM-0000{0}"),
        [
            "automated_segm/UPENN-GBM-0000{0}_11_automated_approx_segm.nii.gz",
            "images_DTI/UPENN-GBM-0000{0}_11/UPENN-GBM-0000{0}_11_DTI_FA.nii.gz",
            "images_structural_unstripped/UPENN-GBM-0000{0}_11/UPENN-GBM-0000{0}_11_T1GD_unstripped.nii.gz",
        ],
    ),
    "UCSF-PDGM": (
        [
            f"UCSF-PDGM-000{{0}}_nifti/UCSF-PDGM-000{{0}}_{e}.nii.gz"
            for e in ("FLAIR", "T1", "T1c", "T2", "tumor_segmentation")
        ],
        ("UCSF-PDGM-000{0}", "UCSF-PDGM-000{0}"),
        [
            f"UCSF-PDGM-000{{0}}_nifti/UCSF-PDGM-000{{0}}_{e}.nii.gz"
            for e in ("T1c_bias", "brain_segmentation", "brain_parenchyma_segmentation", "ADC", "DTI_eddy_MD")
        ],
    ),
    "MU-Glioma-Post": (
        [
            f"PatientID_000{{0}}/Timepoint_2/PatientID_000{{0}}_Timepoint_2_{e}.nii.gz"
            for e in ("brain_t2f", "brain_t1n", "brain_t1c", "brain_t2w", "tumorMask")
        ],
        ("PatientID_000{0}_Timepoint_2", "PatientID_000{0}"),
        [],
    ),
    "BIDS": (
        [
            f"sub-0{{0}}/ses-1/anat/sub-0{{0}}_ses-1_{e}.nii.gz"
            for e in ("FLAIR", "T1w", "acq-3d_ce-GAD_T1w", "T2w", "label-tumor_mask")
        ],
        ("sub-0{0}_ses-1", "sub-0{0}"),
        ["sub-0{0}/ses-1/anat/sub-0{0}_ses-1_desc-brain_mask.nii.gz", "sub-0{0}/ses-1/dwi/sub-0{0}_ses-1_dwi.nii.gz"],
    ),
    "Kaggle": (
        [
            KAGGLE.format("{0}", *e)
            for e in (
                ("flair", "brain_flair"),
                ("t1", "brain_t1"),
                ("t1ce", "brain_t1ce"),
                ("t2", "brain_t2"),
                ("seg", "final_seg"),
            )
        ],
        ("BraTS2021_0000{0}", "BraTS2021_0000{0}"),
        [],
    ),
    "images and labels": (
        [*(f"images/P{{0}}_{e}.nii" for e in ("flair", "t1", "t1ce", "t2")), "labels/P{0}_seg.nii"],
        ("P{0}", "P{0}"),
        ["masks/P{0}_brain_mask.nii"],
    ),
    "sessions": (
        [f"P{{0}}/ses-1/{e}.nii" for e in ("flair", "t1", "t1ce", "t2", "seg")],
        ("P{0}_ses-1", "P{0}"),
        [],
    ),
}


@pytest.mark.parametrize("title", SETS)
def test_every_file_of_a_public_data_set_is_used_or_named(title, tmp_path):
    paths, (case, patient), others = SETS[title]
    for number in (1, 2):
        fill(tmp_path, *(path.format(number) for path in [*paths, *others]))
    (tmp_path / ".git").mkdir()
    fill(tmp_path, ".git/P9_t1ce.nii.gz")
    cases, files = survey(tmp_path)
    assert [item.name for item in cases] == [case.format(number) for number in (1, 2)]
    assert [item.patient for item in cases] == [patient.format(number) for number in (1, 2)]
    for number, item in enumerate(cases, 1):
        wanted = {role: tmp_path / path.format(number) for role, path in zip(ROLES, paths)}
        assert {role: path.absolute() for role, path in item.files.items()} == wanted
    left = {path.relative_to(tmp_path).as_posix() for path, _ in files.left_out}
    assert left == {path.format(number) for number in (1, 2) for path in others}
    assert len({item.group for item in cases}) == 1  # not a group for each patient
    assert names(find_images(tmp_path)) == {item.name: item.files["t1ce"].name for item in cases}


def nnunet(root, labels, channels=("T1", "T1ce", "T2", "FLAIR"), cases=("A", "B")):
    fill(root, *(f"imagesTr/{case}_{i:04d}.nii.gz" for case in cases for i in range(len(channels))))
    fill(root, *(f"labelsTr/{case}.nii.gz" for case in cases), *(f"imagesTs/C_{i:04d}.nii.gz" for i in range(4)))
    spec = {"channel_names": {str(i): name for i, name in enumerate(channels)}, "labels": labels}
    (root / "dataset.json").write_text(json.dumps(spec))


REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
PLAIN_LABELS = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}


@pytest.mark.parametrize("labels, values", [(REGIONS, (0, 2, 1, 3)), (PLAIN_LABELS, (0, 1, 2, 3))])
def test_an_nnunet_data_set_means_what_its_dataset_json_says(tmp_path, labels, values):
    nnunet(tmp_path, labels)
    fill(tmp_path, "imagesTr/notes.nii.gz", "labelsTr/D.nii.gz")
    cases, files = survey(tmp_path)
    assert [case.name for case in cases] == ["A", "B", "C"]
    assert [case.label_values for case in cases] == [values] * 3
    assert [set(case.files) == set(ROLES) for case in cases] == [True, True, False]
    assert cases[0].files["t1ce"].name == "A_0001.nii.gz" and cases[0].files["label"].name == "A.nii.gz"
    assert {path.name for path, _ in files.left_out} == {"dataset.json", "notes.nii.gz", "D.nii.gz"}
    assert names(find_images(tmp_path / "imagesTs")) == {"C": "C_0001.nii.gz"}
    assert names(find_images(tmp_path, "flair"))["A"] == "A_0003.nii.gz"


@pytest.mark.parametrize(
    "labels, channels, word",
    [
        ({"background": 0, "tumour": 1}, ("T1", "T1ce", "T2", "FLAIR"), "tumour"),
        (PLAIN_LABELS, ("T1", "CT", "T2", "FLAIR"), "CT"),
        (PLAIN_LABELS, ("T1ce", "T1ce", "T2", "FLAIR"), "T1ce"),
    ],
)
def test_an_nnunet_data_set_without_known_meaning_is_rejected(tmp_path, labels, channels, word):
    nnunet(tmp_path, labels, channels)
    with pytest.raises(UserError, match=rf"dataset\.json.*{word}"):
        find_cases(tmp_path)


def test_cases_of_an_nnunet_data_set_may_bear_the_names_of_brats(tmp_path):
    nnunet(tmp_path, REGIONS, cases=("BraTS-GLI-00001-000", "BraTS-GLI-00001-001"))
    assert [(case.name, case.patient) for case in find_cases(tmp_path)][:2] == [
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001"),
        ("BraTS-GLI-00001-001", "BraTS-GLI-00001"),
    ]


def test_a_case_without_the_sequence_is_left_out_and_named(tmp_path, caplog):
    nnunet(tmp_path, REGIONS)
    (tmp_path / "imagesTr" / "B_0001.nii.gz").unlink()
    assert names(find_images(tmp_path)) == {"A": "A_0001.nii.gz", "C": "C_0001.nii.gz"}
    assert any("Left out 1 case(s) without t1ce" in message and "B" in message for message in caplog.messages)


def test_files_of_one_name_in_folders_of_patients_are_named_after_them(tmp_path):
    for case in ("P1", "P2"):
        fill(tmp_path, *(f"{case}/scan_{role}.nii.gz" for role in ("t1ce", "seg")))
    assert [case.name for case in find_cases(tmp_path)] == sorted(names(find_images(tmp_path))) == ["P1", "P2"]


OTHERS = {  # names of T2, FLAIR, T1 without contrast and others, and the word that tells
    "Patient 1 FLAIR": "FLAIR",
    "P1.FLAIR": "FLAIR",
    "P1FLAIR": "FLAIR",
    "P1_T1 pre": "pre",
    "P1_T1_3": "T1",
    "AXT2_P1": "T2",
    "P1_SWAN_4": "SWAN",
    "P1_DTI64_9": "DTI",
    "P1_Perfusion_9": "Perfusion",
    "P1/Ax T2/vol1": "T2",
    "P1/T2_TSE_tra/P1_5": "T2",
    "P1/FLAIR_3D/P1_6": "FLAIR",
    "P1/T1_MPRAGE_nativ/P1_4": "nativ",
    "Meier_T1_oKM": "o KM",
    "Meier_T1_okm": "okm",
    "Meier_T1_prä_KM": "pra KM",
    "Meier_T1_utan_kontrast": "utan kontrast",
    "P1/T1_MPRAGE_KM/P1_T2_5": "T2",
}


@pytest.mark.parametrize(
    "files, word",
    [
        (["P0/T1CE/scan01.nii", "P0/FLAIR/scan02.nii", "P0/T1/scan03.nii"], "FLAIR"),
        (["post/A0.nii", "pre/B0.nii"], "pre"),
        (["P0_post.nii", "P0_pre.nii"], "pre"),
        (["P0_CT.nii", "P0_PET.nii"], "CT"),
        *(([f"{name}.nii"], word) for name, word in OTHERS.items()),
    ],
)
def test_folders_and_words_that_tell_other_images_are_named(tmp_path, files, word):
    fill(tmp_path, *files)
    with pytest.raises(UserError, match=rf"seems to be of a sequence \({word}\), but no ending is known"):
        find_images(tmp_path)


@pytest.mark.parametrize("sequence", ["t1", "t1ce"])
def test_a_name_that_leaves_the_contrast_in_doubt_is_of_neither_sequence(sequence, tmp_path):
    fill(tmp_path, "P1_T1_sanza_gd.nii")
    with pytest.raises(UserError, match=r"seems to be of a sequence \(sanza gd\)"):
        find_images(tmp_path, sequence)


def test_a_scan_without_contrast_by_bids_is_no_t1ce(tmp_path):
    fill(tmp_path, *(f"sub-0{n}/anat/sub-0{n}_ce-{agent}_T1w.nii.gz" for n, agent in enumerate(("gad", "none"))))
    assert names(find_images(tmp_path)) == {"sub-00": "sub-00_ce-gad_T1w.nii.gz"}


def test_names_of_patients_before_the_sequence_do_not_matter(tmp_path):
    fill(tmp_path, "anna maria gd t1 3d gd.nii")
    assert len(find_images(tmp_path)) == 1


@pytest.mark.parametrize(
    "files",
    [
        ["A/T1CE/a.nii", "B/T1CE/b.nii"],
        ["PD_001.nii", "CT-0012.nii", "PRE01.nii", "T2K_001.nii", "X7T2QP.nii", "sub-01.nii"],
        ["pre-op/a.nii"],
        ["T1_Gd/a.nii"],
        ["A 1 T1 KM.nii", "A 2 T1+C.nii", "P3/Ax T1 post/vol2.nii", "Meier_KM_T1_3D.nii", "Huber_T1_mKM.nii"],
        ["Stirling_Eva.nii", "Swanson_Jo.nii", "BraTS2021_00001.nii"],
        ["phase1/P01.nii", "survey2/P1.nii", "Sub_A.nii", "Neck_Anna.nii", "Press_John.nii"],
    ],
)
def test_centres_and_folders_of_the_wanted_sequence_are_no_other_images(tmp_path, files):
    fill(tmp_path, *files)
    assert sorted(names(find_images(tmp_path)).values()) == sorted(Path(file).name for file in files)


def test_files_of_which_only_some_say_t1ce_are_named(tmp_path):
    fill(tmp_path, "P1_T1post.nii", "P1_sag.nii")
    with pytest.raises(UserError, match=r"P1_T1post\.nii seems to be t1ce \(post\), and .*P1_sag\.nii .*--t1ce"):
        find_images(tmp_path)


def test_a_single_image_is_named_by_its_file(tmp_path):
    kaggle = "BraTS2021_00000/BraTS2021_00000_t1ce.nii/00000057_brain_t1ce.nii"
    fill(tmp_path, kaggle, "images/P01_t1ce.nii.gz")
    assert list(names(find_images(tmp_path / "images"))) == ["P01"]
    for path in (kaggle, str(Path(kaggle).parent)):
        assert list(names(find_images(tmp_path / path))) == ["BraTS2021_00000"]


@pytest.mark.parametrize(
    "name",
    [
        *(f"B_t1ce.nii{end}" for end in (".bz2", ".gz.part", ".gz.dvc", ".zip", ".gz.crdownload", ".gz.1", ".gz.tmp")),
        *("B_t1ce.nii.gz.filepart", "B_t1ce.nii.gz~", "B_t1ce.niigz", "B_t1ce.nii_gz", "B_t1ce.nii.gz "),
    ],
)
def test_a_packed_or_partial_volume_is_warned_of(tmp_path, name, caplog):
    fill(tmp_path, "A_t1ce.nii.gz")
    (tmp_path / name).write_bytes(b"x")
    find_images(tmp_path)
    assert [m for m in caplog.messages if "packed or in part" in m and name in m]


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08", nib.Nifti1Header().binaryblock])
def test_a_volume_that_lost_its_ending_is_warned_of_and_a_text_is_not(tmp_path, content, caplog):
    fill(tmp_path, "A_t1ce.nii.gz")
    for name in ("B_t1ce.gz", "C_t1ce"):
        (tmp_path / name).write_bytes(content)
    for name in ("dcm2niix.log", "A.nii.json", "notes", "empty"):
        (tmp_path / name).write_bytes(b"" if name == "empty" else b"text")
    find_images(tmp_path)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "2 file(s)" in message and "lost its ending" in message and "B_t1ce.gz, C_t1ce" in message


def test_a_file_without_permission_is_to_be_made_readable(tmp_path, monkeypatch):
    fill(tmp_path, "A_t1ce.nii.gz")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"A_t1ce\.nii\.gz: cannot be read \(permission denied\): make it readable"):
        find_images(tmp_path)


def test_our_own_probabilities_are_no_surprise(tmp_path, caplog):
    fill(tmp_path, "A_t1ce.nii.gz", "A_probabilities.nii.gz")
    find_images(tmp_path)
    assert read_name(Path("A_probabilities.nii.gz")).reason == "map of an inference"
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("name", [".B_t1ce.nii.gz.icloud", "TCGA-02-0011_1998.02.01"])
def test_content_that_is_elsewhere_is_named(tmp_path, name):
    fill(tmp_path, "A_t1ce.nii.gz")
    if name.endswith(".icloud"):
        (tmp_path / name).write_bytes(b"bplist")
    else:
        (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(UserError, match=re.escape(name)):
        find_images(tmp_path)


def test_a_link_to_another_image_that_is_not_there_is_warned_of_and_one_to_a_text_is_not(tmp_path, caplog):
    fill(tmp_path, "A_t1ce.nii.gz")
    for name in ("raw.dcm", "raw.IMA", "notes.txt"):
        (tmp_path / name).symlink_to("nowhere")
    find_images(tmp_path)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "(a link to an image that is not there): raw.IMA, raw.dcm" in message


def test_predictions_are_no_truth(tmp_path, caplog):
    fill(tmp_path, "P0/P0_t1ce.nii", "P0/P0_seg.nii", "P1/P1_t1ce.nii", "out/P1_seg.nii", "out/P2_seg.nii")
    group = {"cases": [{"case": "P1", "prediction": "/elsewhere/out/P1_seg.nii"}]}
    (tmp_path / "out" / "inference.json").write_text(json.dumps({"cases": [], "earlier": [group]}))
    found, files = survey(tmp_path)
    assert {case.name: "label" in case.files for case in found if "t1ce" in case.files} == {"P0": True, "P1": False}
    assert [reason for path, reason in files.left_out if path.name == "P1_seg.nii"] == [
        "a prediction, which inference.json beside it lists"
    ]


def test_the_truth_to_score_by_has_no_earlier_prediction(tmp_path, caplog):
    fill(tmp_path, "P0_seg.nii", "out/P1_seg.nii", "out/P2_seg.nii", "out/P3_seg.nii")
    cases = [{"case": "P1", "prediction": "out/P1_seg.nii"}]
    (tmp_path / "out" / "inference.json").write_text(json.dumps({"cases": cases}))
    assert list(find_label_maps(tmp_path, "truth")) == ["P0", "P2", "P3"]
    assert "out/P1_seg.nii" in caplog.text and "a prediction" in caplog.text
    assert list(find_label_maps(tmp_path, "pred")) == ["P0", "P1", "P2", "P3"]
    assert list(find_label_maps(tmp_path / "out", "truth")) == ["P1", "P2", "P3"]  # asked for


def test_an_nnunet_data_set_without_its_json_is_named(tmp_path):
    nnunet(tmp_path, REGIONS)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"dataset\.json is missing"):
        find_cases(tmp_path)


def test_labels_of_other_names_need_a_meaning_only_where_labels_are_read(tmp_path):
    nnunet(tmp_path, {"background": 0, "label1": 1, "label2": 2, "label3": 3})
    with pytest.raises(UserError, match="labels is .*--label_values"):
        find_cases(tmp_path)
    assert [case.name for case in survey(tmp_path, labelled=False)[0]] == ["A", "B", "C"]


def test_labels_as_text_are_numbers(tmp_path):
    nnunet(tmp_path, {name: str(value) for name, value in PLAIN_LABELS.items()})
    assert find_cases(tmp_path)[0].label_values == (0, 1, 2, 3)


def test_a_pattern_may_exclude_characters(tmp_path):
    fill(tmp_path, *(f"P{case}/P{case}_post{end}.nii.gz" for case in (1, 2) for end in ("", "2")))
    chosen = names(find_images(tmp_path, choice=Choice({"t1ce": "*_pos[!2].nii.gz"}))).values()
    assert sorted(chosen) == ["P1_post.nii.gz", "P2_post.nii.gz"]


@pytest.mark.parametrize(
    "pair", [("imagesTr/B_1.nii", "imagesTs/B_1.nii"), ("labelsTr/B_1.nii", "labelsTr/B_1.nii.gz")]
)
def test_two_files_of_one_name_in_a_task_are_both_named(tmp_path, pair):
    fill(tmp_path, "imagesTr/B1.nii", *pair)
    with pytest.raises(UserError) as error:
        find_cases(tmp_path)
    assert all(str(tmp_path / path) in str(error.value) for path in pair)


@pytest.mark.parametrize(
    "spec", [{"channel_names": ["T1"]}, {"channel_names": {"a": "T1"}}, {"labels": {"WT": "x"}}, []]
)
def test_a_dataset_json_of_another_form_is_named(tmp_path, spec):
    nnunet(tmp_path, REGIONS)
    (tmp_path / "dataset.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match=r"dataset\.json"):
        find_cases(tmp_path)


def test_channels_without_a_dataset_json_are_never_patients(tmp_path):
    fill(tmp_path, *(f"CASE_000{i}.nii.gz" for i in range(4)))
    with pytest.raises(UserError, match=r"CASE_0000\.nii\.gz.*CASE_0001\.nii\.gz.*--t1ce"):
        find_images(tmp_path)
    assert names(find_images(tmp_path, choice=Choice({"t1ce": "*_0001.nii.gz"}))) == {"CASE": "CASE_0001.nii.gz"}
    fill(tmp_path, *(f"CASE_000{i}.nii.gz" for i in range(4, 9)))  # nine numbers are not four channels
    assert len(find_images(tmp_path)) == 9


def test_msd_is_predicted_by_its_t1ce_channel(tmp_path):
    fill(tmp_path, "imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz")
    (image,) = find_images(tmp_path)
    assert (image["case"], image["channels"]) == ("BRATS_001", {"image": [2]})


@pytest.mark.parametrize(
    "word", ["mask", "bet_mask", "brain_mask", "brainmask", "bias", "T1c_bias", "roi", "dwi", "label"]
)
def test_what_stands_beside_an_image_is_reported_and_not_predicted(tmp_path, word, caplog):
    fill(tmp_path, "P0.nii.gz", f"P0_{word}.nii.gz")
    assert names(find_images(tmp_path)) == {"P0": "P0.nii.gz"}
    assert f"P0_{word}.nii.gz" in caplog.text
    with pytest.raises(UserError, match=rf"P0_{word}\.nii\.gz"):
        find_images(tmp_path / f"P0_{word}.nii.gz")


@pytest.mark.parametrize(
    "files",
    [
        ("P0.nii", "P0_bet.nii"),
        ("P0.nii", "P0 KM.nii"),
        ("P0_T1post.nii", "P0_T2tse.nii"),
        ("P0-x.nii", "P0-x-y.nii"),
        ("P0.nii", "P0 (1).nii"),
    ],
)
def test_files_of_one_patient_that_no_name_tells_apart_are_rejected(tmp_path, files):
    fill(tmp_path, *files)
    with pytest.raises(UserError, match=rf"({files[0]}|{files[1]}).*--t1ce"):
        find_images(tmp_path)


@pytest.mark.parametrize("pair", [("P0_seg", "P0-seg"), ("P0_t1ce", "P0_t1gd"), ("P0_t2", "P0_T2w")])
def test_two_files_of_one_role_are_both_named(tmp_path, pair):
    fill(tmp_path, *(f"P0/P0_{e}.nii.gz" for e in ("flair", "t1", "t1ce", "t2", "seg")))
    fill(tmp_path, *(f"P0/{name}.nii.gz" for name in pair))
    with pytest.raises(UserError) as error:
        find_cases(tmp_path)
    assert all(f"{name}.nii.gz" in str(error.value) for name in pair)


def test_a_label_belongs_to_the_case_that_it_names(tmp_path):
    fill(tmp_path, "P0_t1ce.nii.gz", "P1_seg.nii.gz")
    assert {case.name: set(case.files) for case in find_cases(tmp_path)} == {"P0": {"t1ce"}, "P1": {"label"}}


def test_files_in_two_folders_are_joined_only_where_names_say_so(tmp_path):
    fill(tmp_path, "P1/scan_t1ce.nii", "P2/scan_seg.nii")
    with pytest.raises(UserError, match=r"P1/scan_t1ce\.nii.*P2/scan_seg\.nii"):
        find_cases(tmp_path)
    (case,) = find_cases(tmp_path, Choice({"t1ce": "P1/*_t1ce.nii", "label": "P2/*_seg.nii"}))
    assert set(case.files) == {"t1ce", "label"}


def test_links_that_lead_nowhere_pointers_and_unreadable_folders_are_named(tmp_path, monkeypatch):
    fill(tmp_path, *(f"P{i}/P{i}_t1ce.nii.gz" for i in range(4)))
    (tmp_path / "P1" / "P1_t1ce.nii.gz").unlink()
    (tmp_path / "P1" / "P1_t1ce.nii.gz").symlink_to("../.git/annex/objects/x")
    (tmp_path / "P2" / "P2_t1ce.nii.gz").write_text("/annex/objects/MD5E-s1--x.nii.gz\n")
    (tmp_path / "P5").symlink_to("nowhere")
    scan = os.scandir

    def deny(path):
        if Path(path).name == "P3":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", deny)
    for function in (find_cases, find_images, lambda folder: find_label_maps(folder, "pred")):
        with pytest.raises(UserError) as error:
            function(tmp_path)
        for name in ("P1/P1_t1ce.nii.gz", "P2/P2_t1ce.nii.gz", "P3", "P5"):
            assert str(tmp_path / name) in str(error.value)


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    fill(tmp_path, "P0/P0_t1ce.nii.gz")
    (tmp_path / "P0" / "up").symlink_to(tmp_path)
    cases, files = survey(tmp_path)
    assert [case.name for case in cases] == ["P0"] and [path.name for path, _ in files.left_out] == ["up"]


@pytest.mark.parametrize(
    "case, patient",
    [
        ("UPENN-GBM-00001_21", "UPENN-GBM-00001"),
        ("UCSF-PDGM-0431_FU003d", "UCSF-PDGM-0431"),
        ("PatientID_0003_Timepoint_5", "PatientID_0003"),
        ("BraTS-MET-00086-001", "BraTS-MET-00086"),
        ("BraTS-GoAT-00001", "BraTS-GoAT-00001"),
        ("Brats17_TCIA_101_1", "Brats17_TCIA_101"),
        ("brats_2013_pat0001_1", "brats_2013_pat0001"),
        ("TCGA-02-0006_1996.08.23", "TCGA-02-0006"),
        ("sub-P1_ses-post", "sub-P1"),
        ("P07_ses-2", "P07"),
        ("P07_week-044", "P07"),
        ("P07_baseline", "P07"),
        ("P07_20200131", "P07"),
        ("P07 20200131", "P07"),
        ("P07.2020-01-31", "P07"),
        ("UKH_40012340", "UKH_40012340"),
        ("UKH_20201340", "UKH_20201340"),
        ("UKH_10020131", "UKH_10020131"),
        ("BRATS_001", "BRATS_001"),
        ("case_2", "case_2"),
        ("BraTS20_Training_355", "BraTS20_Training_355"),
    ],
)
def test_the_patient_is_the_name_without_the_time_point(case, patient):
    assert patient_of(case) == patient


def test_patterns_name_files_and_patients_alike_for_datalist_and_prediction(tmp_path):
    for case in ("P1_1", "P1_2", "P2_1"):
        fill(tmp_path, *(f"{case}/{case}_{e}.nii.gz" for e in ("post", "pre", "T2", "FLAIR", "lesion", "junk")))
    choice = Choice({"t1ce": "*_post.nii.gz", "t1": "*_pre.nii.gz", "label": "*_lesion.nii.gz"}, r"(.*)_\d+")
    cases, files = survey(tmp_path, choice)
    assert [(case.name, case.patient) for case in cases] == [("P1_1", "P1"), ("P1_2", "P1"), ("P2_1", "P2")]
    assert all(set(case.files) == set(ROLES) for case in cases)
    assert {path.name[5:] for path, _ in files.left_out} == {"junk.nii.gz"}
    work = find_work(str(tmp_path), names={"t1ce": "*_post.nii.gz"}, output_dir=str(tmp_path / "o"))
    assert [image["case"] for image in work["left"]] == ["P1_1", "P1_2", "P2_1"]


NESTED = ["Patient-003/Preop", "Patient-003/Odd", "P4/2020-05-03", "P4/03-04-2021", "P5/Post_op"]


@pytest.mark.parametrize(
    "folders, patients",
    [
        (NESTED, {folder.replace("/", "_"): folder.split("/")[0] for folder in NESTED}),
        (["P1/a", "P1/b", "P2/a"], {"P1_a": "P1", "P1_b": "P1", "P2_a": "P2"}),
        (["x/P1/mri", "x/P2/mri"], {"P1_mri": "P1", "P2_mri": "P2"}),
        (
            ["P1/day1/mri", "P1/day2/mri", "P2/day1/mri"],
            {"P1_day1_mri": "P1", "P1_day2_mri": "P1", "P2_day1_mri": "P2"},
        ),
        (["HGG/A", "LGG/B"], {"A": "A", "B": "B"}),
        (["P1/2020", "P2/2021"], {"P1_2020": "P1", "P2_2021": "P2"}),
        (["P1/2020", "P2/2021", "P3/2020"], {"P1_2020": "P1", "P2_2021": "P2", "P3_2020": "P3"}),
    ],
)
def test_a_folder_above_is_the_patient_where_the_folders_below_do_not_name_one(tmp_path, folders, patients):
    fill(tmp_path, *(f"{folder}/{e}.nii" for folder in folders for e in ("t1ce", "seg")))
    cases = find_cases(tmp_path)
    assert {case.name: case.patient for case in cases} == patients
    assert sorted(names(find_images(tmp_path))) == sorted(patients)
    assert all(set(case.files) == {"t1ce", "label"} for case in cases)
    if folders != ["HGG/A", "LGG/B"]:
        assert {case.group for case in cases} == {"x" if folders[0].startswith("x") else ""}


def test_scans_named_after_two_folders_are_told(tmp_path, caplog):
    fill(tmp_path, "P1/2020/t1ce.nii", "P2/2020/t1ce.nii")
    find_images(tmp_path)
    (message,) = caplog.messages
    assert "P1/2020 is P1_2020 of patient P1" in message and "--patient" in message
    assert list(names(find_images(tmp_path / "P1" / "2020" / "t1ce.nii"))) == ["2020"]


def test_folders_of_one_name_in_large_groups_are_not_examinations(tmp_path):
    fill(tmp_path, *(f"{group}/{i}/t1ce.nii" for group in ("HGG", "LGG") for i in range(7)))
    with pytest.raises(UserError, match="HGG/.*LGG/"):
        find_cases(tmp_path)


def test_a_label_of_another_name_is_taken_only_where_a_public_data_set_has_it(tmp_path):
    fill(tmp_path, "P0/P0_t1ce.nii", "P0/P7_seg.nii")
    with pytest.raises(UserError, match=r"P7_seg\.nii .*P0"):
        find_cases(tmp_path)


def test_a_patient_pattern_must_fit_every_case_and_may_be_of_the_path(tmp_path):
    fill(tmp_path, "P1/A_t1ce.nii", "P1/B_t1ce.nii", "P2/C_t1ce.nii", "P2/D_t1ce.nii")
    with pytest.raises(UserError, match=r"patient is '\(A\|B\)'.* C, D\b"):
        find_cases(tmp_path, Choice(patient="(A|B)"))
    choice = Choice(patient="(.*)/.*")
    expected = {"A": "P1", "B": "P1", "C": "P2", "D": "P2"}
    assert {case.name: case.patient for case in find_cases(tmp_path, choice)} == expected


def test_a_pattern_with_a_folder_names_cases_by_folder(tmp_path):
    fill(tmp_path, *(f"P{i}/{e}.nii" for i in (1, 2) for e in ("post", "roi")))
    cases = find_cases(tmp_path, Choice({"t1ce": "*/post.nii", "label": "roi.nii"}))
    assert [(case.name, set(case.files)) for case in cases] == [("P1", {"t1ce", "label"}), ("P2", {"t1ce", "label"})]
    found = find_work(str(tmp_path), names={"t1ce": "*/post.nii"}, output_dir=str(tmp_path / "o"))["all"]
    assert [image["case"] for image in found] == ["P1", "P2"]


@pytest.mark.parametrize(
    "options, word",
    [
        ({"globs": {"t1ce": "*_none.nii"}}, r"t1ce is .*_none"),
        ({"globs": {"t1ce": "*.nii", "t1": "*_a.nii"}}, r"_a\.nii fits .*t1ce.*t1"),
        ({"globs": {"t1ce": "*_a.nii", "flair": "*_x.nii"}}, r"flair is .*_x"),
        ({"globs": {"t1ce": "*_a.nii"}, "patient": "(.*"}, r"patient is '\(\.\*'"),
        ({"globs": {"t1ce": "*_a.nii"}, "patient": "P"}, "patient is 'P'"),
        ({"globs": {"t1ce": "*_a.nii"}, "patient": "(X.*)_1"}, r"patient is .*P0"),
    ],
)
def test_patterns_that_do_not_fit_are_named(tmp_path, options, word):
    fill(tmp_path, "P0_a.nii", "P0_b.nii")
    functions = [survey, lambda folder, choice: find_images(folder, choice=choice)]
    for function in functions[: 1 if "patient" in options else 2]:
        with pytest.raises(UserError, match=word):
            function(tmp_path, Choice(**options))


def test_mixed_data_sets_are_rejected(tmp_path):
    fill(tmp_path, "a/UPENN-GBM-00001_11_T1GD.nii", "b/UCSF-PDGM-0004_T1c.nii")
    with pytest.raises(UserError, match=r"UPENN-GBM-00001_11.*UCSF-PDGM-0004"):
        find_cases(tmp_path)
    nnunet(tmp_path / "n", REGIONS)
    fill(tmp_path / "n", "more/BraTS2021_00001/BraTS2021_00001_t1ce.nii.gz")
    with pytest.raises(UserError, match=r"imagesTr.*BraTS2021_00001_t1ce"):
        find_cases(tmp_path / "n")


def test_file_and_folder_of_two_roles_are_rejected(tmp_path):
    fill(tmp_path, "P0/P0_t1ce.nii/x_flair.nii")
    with pytest.raises(UserError, match=r"x_flair\.nii.*flair.*t1ce"):
        find_cases(tmp_path)


@pytest.mark.parametrize("function", [find_cases, find_images])
def test_where_nothing_is_recognised_the_endings_are_told(tmp_path, function):
    fill(tmp_path, *(f"P{i}_{e}.nii" for i in (1, 2) for e in ("T1post", "T2tse")))
    with pytest.raises(UserError, match=r"t1ce: t1ce, t1c.*Found: .*t1post.*--t1ce"):
        function(tmp_path)


def test_a_name_is_read_alike_wherever_it_stands():
    path = Path("BraTS2021_00001/BraTS2021_00001_t1ce.nii/00000057_brain_t1ce.nii")
    assert case_of(path) == read_name(path).case == "BraTS2021_00001"


# e2e: the six phantoms under other names


def renamed(cohort, name):
    """The cohort's files as name(case number, role)."""
    target = cohort / "renamed"
    for path in sorted((cohort / "data").rglob("*.nii.gz")):
        number, role = path.name.removesuffix(".nii.gz").split("_")[1:]
        new = target / name(int(number), {"seg": "label"}.get(role, role))
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, new)
    return target


def upenn(number, role):
    name = f"UPENN-GBM-{number // 2:05d}_{1 + number % 2}1"
    if role == "label":
        return f"images_segm/{name}_segm.nii.gz"
    return f"images_structural/{name}/{name}_{ {'t1ce': 'T1GD'}.get(role, role.upper()) }.nii.gz"


def entries_of(root, **options):
    make_datalist(str(root), str(root.parent / "x.json"), **options)
    return json.loads((root.parent / "x.json").read_text())


def test_follow_ups_of_a_patient_share_a_fold_and_the_table_counts_them(cohort, capsys):
    root = renamed(cohort, upenn)
    fill(root, "images_DTI/UPENN-GBM-00000_11_DTI_FA.nii.gz")
    entries = entries_of(root, folds=3)["training"]
    folds = {
        patient: {e["fold"] for e in entries if e["patient"] == patient} for patient in {e["patient"] for e in entries}
    }
    assert len(entries) == 6 and len(folds) == 3 and all(len(fold) == 1 for fold in folds.values())
    table = capsys.readouterr().out
    assert "UPENN-GBM-00000_11_DTI_FA.nii.gz" in table
    cells = [line.split() for line in table.splitlines()]
    assert ["cases", "6"] in [row[:2] for row in cells] and ["patients", "3"] in [row[:2] for row in cells]
    assert ["label", "value", "4", "6"] in [row[:4] for row in cells]


def test_an_nnunet_data_set_becomes_a_datalist_with_its_label_values(cohort):
    channels = {"t1": 0, "t1ce": 1, "t2": 2, "flair": 3}
    root = renamed(
        cohort, lambda n, r: f"labelsTr/C{n}.nii.gz" if r == "label" else f"imagesTr/C{n}_{channels[r]:04d}.nii.gz"
    )
    for path in (root / "labelsTr").iterdir():
        image = nib.load(path)
        voxels = np.asarray(image.dataobj)
        voxels = np.select([voxels == 1, voxels == 2, voxels == 4], [2, 1, 3], 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
    spec = {"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}, "labels": REGIONS}
    (root / "dataset.json").write_text(json.dumps(spec))
    document = entries_of(root, folds=3)
    assert document["labels"] == {"0": "background", "1": "ED", "2": "NCR", "3": "ET"}
    assert [entry["image"] for entry in document["training"]] == [f"imagesTr/C{n}_0001.nii.gz" for n in range(6)]


def test_an_nnunet_data_set_without_labels_becomes_a_list_for_prediction(cohort):
    channels = {"t1": 0, "t1ce": 1, "t2": 2, "flair": 3, "label": 9}
    root = renamed(cohort, lambda n, r: f"imagesTr/C{n}_{channels[r]:04d}.nii.gz")
    for path in root.glob("imagesTr/*_0009.nii.gz"):
        path.unlink()
    spec = {"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}, "labels": REGIONS}
    (root / "dataset.json").write_text(json.dumps(spec))
    assert len(entries_of(root, unlabelled="testing")["testing"]) == 6


def test_no_recognised_label_is_said_with_the_endings(cohort):
    root = renamed(cohort, lambda n, r: f"P{n}_{'voi' if r == 'label' else r}.nii.gz")
    with pytest.raises(UserError, match=r"no label.*label: seg.*voi.*--label"):
        entries_of(root, folds=3)
    assert len(entries_of(root, folds=3, label="*_voi.nii.gz")["training"]) == 6


def test_a_broken_link_stops_a_datalist_or_is_left_out_by_name(cohort, caplog):
    path = cohort / "data" / "phantom_0002" / "phantom_0002_t2.nii.gz"
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(UserError, match=path.name):
        entries_of(cohort / "data", folds=2)
    assert len(entries_of(cohort / "data", folds=2, strict=False)["training"]) == 5
    assert path.name in caplog.text


def test_names_in_two_forms_of_unicode_are_one(tmp_path):
    composed, parted = (unicodedata.normalize(form, "Jäger_1") for form in ("NFC", "NFD"))
    fill(tmp_path, *(f"{parted}/{parted}_{role}.nii.gz" for role in ("t1ce", "seg")))
    (case,) = find_cases(tmp_path)
    assert case.name == composed and list(names(find_images(tmp_path))) == [composed]
    split = tmp_path / "split.json"
    for form in (composed, parted):
        split.write_text(json.dumps({"training": [form], "validation": []}))
        assert read_split(str(split), [case]) == {composed: 1}
