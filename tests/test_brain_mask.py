"""With a brain mask, an image with the skull gives the label map of the stripped one."""

import json
import re
import shutil
import unicodedata

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from scipy.ndimage import gaussian_filter, shift

from scripts.data.brain_mask import marked, with_masks
from scripts.errors import UserError
from scripts.inference.checked_images import CheckedImages
from scripts.inference.record import record_inference
from scripts.inference.worklist import find_work


@pytest.fixture
def patient(cohort_source, tmp_path):
    """A folder with a stripped image, the same with air and scalp around it, and its mask; and the stripped voxels."""
    source = nib.load(cohort_source / "data" / "phantom_0001" / "phantom_0001_t1ce.nii.gz")
    voxels = np.asarray(source.dataobj)
    around = np.random.default_rng(0).uniform(1, voxels.max(), voxels.shape).astype(np.float32)
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.where(voxels > 0, voxels, around), source.affine), tmp_path / "in" / "p_1.nii.gz")
    nib.save(nib.Nifti1Image((voxels > 0).astype(np.uint8), source.affine), tmp_path / "p_1_bet.nii.gz")
    return tmp_path, voxels, source.affine


def read(folder, mask=""):
    images = find_work(str(folder / "in"), brain_mask=str(folder / mask) if mask else "")["all"]
    return CheckedImages(images, Compose([LoadImaged("image"), EnsureChannelFirstd("image")]))[0]


@pytest.mark.parametrize("form", ["mask", "stripped image", "mask with turned axes"])
def test_voxels_outside_the_mask_are_0_and_those_inside_stay(form, patient):
    folder, voxels, affine = patient
    if form == "stripped image":
        nib.save(nib.Nifti1Image(voxels, affine), folder / "p_1_bet.nii.gz")
    if form == "mask with turned axes":
        nib.save(nib.as_closest_canonical(nib.load(folder / "p_1_bet.nii.gz")), folder / "p_1_bet.nii.gz")
        assert not np.array_equal(nib.load(folder / "p_1_bet.nii.gz").affine, affine)
    assert torch.equal(read(folder, "*_bet.nii.gz")["image"][0].as_subclass(torch.Tensor), torch.from_numpy(voxels))
    assert "marks 4,096 ml" in read(folder, "in/*.nii.gz")["fault"]  # the image itself: nothing is taken away


@pytest.mark.parametrize("image, mask", [("NFD", "NFD"), ("NFC", "NFD"), ("NFD", "NFC")])
def test_a_mask_is_found_whichever_form_of_unicode_a_mac_or_another_system_gave_its_name(image, mask, patient):
    folder, voxels, _ = patient
    masks = folder / unicodedata.normalize(mask, "Könige")
    masks.mkdir()
    name = unicodedata.normalize(image, "Müller")
    (folder / "in" / "p_1.nii.gz").rename(folder / "in" / f"{name}.nii.gz")
    (folder / "p_1_bet.nii.gz").rename(masks / f"{unicodedata.normalize(mask, 'Müller')}_bet.nii.gz")
    found = read(folder, unicodedata.normalize(image, "Könige/*_bet.nii.gz"))
    assert torch.equal(found["image"][0].as_subclass(torch.Tensor), torch.from_numpy(voxels))


SOFT = {
    "probabilities": lambda inside: np.where(inside, 0.98, 0.003),
    "8 bits": lambda inside: np.where(inside, 255, 3).astype(np.uint8),
    "NaN outside": lambda inside: np.where(inside, 1, np.nan),
    "resampled": lambda inside: gaussian_filter(inside.astype(np.float32), 0.4),
    "tissues": lambda inside: inside * (1 + np.indices(inside.shape)[1] % 3),
}


@pytest.mark.parametrize("form", SOFT)
def test_a_soft_mask_is_set_above_half_of_its_largest_value(form):
    inside = np.linalg.norm(np.indices((20, 20, 20)) - 9.5, axis=0) < 8
    assert np.array_equal(marked(SOFT[form](inside)), inside)


def test_an_inverted_mask_of_a_stripped_image_is_named(patient):
    folder, voxels, affine = patient
    nib.save(nib.Nifti1Image(voxels, affine), folder / "in" / "p_1.nii.gz")
    nib.save(nib.Nifti1Image((voxels == 0).astype(np.uint8), affine), folder / "m.nii.gz")
    assert re.search(r"mask .* not 0 in 0 ml, expected a brain of 350 to 2,500 ml", read(folder, "m.nii.gz")["fault"])


def test_a_mask_that_takes_much_of_a_stripped_image_away_is_warned_of(patient, caplog):
    folder, voxels, affine = patient
    nib.save(nib.Nifti1Image(voxels, affine), folder / "in" / "p_1.nii.gz")
    assert "fault" not in read(folder, "p_1_bet.nii.gz") and "takes" not in caplog.text
    half = (voxels > 0) & (np.arange(len(voxels)) < len(voxels) // 2)[:, None, None]
    nib.save(nib.Nifti1Image(half.astype(np.uint8), affine), folder / "m.nii.gz")
    assert "fault" not in read(folder, "m.nii.gz")
    assert re.search(r"p_1\.nii\.gz is skull-stripped already, and .*m\.nii\.gz takes [45]\d% of it away", caplog.text)


@pytest.mark.parametrize("order, named", [(1, False), (3, True)])
def test_small_values_that_a_spline_leaves_around_the_brain_are_warned_of(order, named, patient, caplog):
    folder, voxels, affine = patient
    moved = np.rint(shift(voxels, (0.4, 0.4, 0.4), order=order)).astype(np.int16)  # cubic splines ring at the edge
    nib.save(nib.Nifti1Image(moved, affine), folder / "in" / "p_1.nii.gz")
    assert "fault" not in read(folder)
    assert bool(re.search(r"p_1\.nii\.gz: \d+% of what is not 0 lies around the brain", caplog.text)) == named
    caplog.clear()
    read(folder, "p_1_bet.nii.gz")
    assert "around the brain" not in caplog.text


def test_masks_that_cannot_be_of_the_image_are_faults_of_its_patient(patient, cohort_source):
    folder, voxels, affine = patient
    tumour = np.asarray(nib.load(cohort_source / "data" / "phantom_0001" / "phantom_0001_seg.nii.gz").dataobj)
    wrong = {
        "shape": nib.Nifti1Image(voxels[1:], affine),
        "affine": nib.Nifti1Image(voxels, affine + np.array([[0, 0, 0, 5.0]] + [[0] * 4] * 3)),
        "marks 0 ml": nib.Nifti1Image(np.zeros_like(voxels), affine),
        r"marks \d?\d ml": nib.Nifti1Image(tumour, affine),
        r"marks 3,\d\d\d ml": nib.Nifti1Image((voxels == 0).astype(np.uint8), affine),
        r"marks 4,096 ml": nib.Nifti1Image(np.where(voxels > 0, 0.6, 0.2).astype(np.float32), affine),
    }
    for named, mask in wrong.items():
        nib.save(mask, folder / "m.nii.gz")
        entry = read(folder, "m.nii.gz")
        assert re.search(rf"brain mask .*m\.nii\.gz.* {named}", entry["fault"]) and "hd-bet" in entry["remedy"]
    images = [{"image": str(folder / "in" / "p_1.nii.gz"), "case": "p_1", "brain_mask": "none.nii.gz"}]
    entry = CheckedImages(images, Compose([LoadImaged("image"), EnsureChannelFirstd("image")]))[0]
    assert entry["fault"] == "there is no brain mask none.nii.gz"


def test_a_pattern_names_the_mask_by_the_case():
    images = [{"case": "a"}, {"case": "b_1"}]
    with pytest.raises(UserError, match=r"one file for 2 images.*masks/a_bet"):
        with_masks(images, "mask.nii.gz")
    with pytest.raises(UserError, match=r"no/a/a_mask\.nii\.gz does not exist: make the masks"):
        with_masks(images, "no/*/*_mask.nii.gz")


def test_another_mask_is_noticed(patient):
    folder = patient[0]
    options = {"dataset_dir": str(folder / "in"), "output_dir": str(folder / "out")}
    shutil.copy(folder / "p_1_bet.nii.gz", folder / "other.nii.gz")
    masks = {name: str(folder / f"{name}.nii.gz") for name in ("p_1_bet", "other")}
    record_inference(options["output_dir"], find_work(**options, brain_mask=masks["p_1_bet"])["all"], [], {})
    record = json.loads((folder / "out" / "inference.json").read_text())
    assert record["cases"][0]["brain_mask"] == masks["p_1_bet"]
    (folder / "out" / "p_1_seg.nii.gz").touch()
    assert find_work(**options, brain_mask=masks["p_1_bet"])["left"] == []
    for mask in (masks["other"], ""):
        with pytest.raises(
            UserError, match=r"p_1_seg\.nii\.gz was predicted with brain mask .*p_1_bet\.nii\.gz, not with"
        ):
            find_work(**options, brain_mask=mask)
