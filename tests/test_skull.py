"""Heads with the skull are faults, stripped brains are not. Heads drawn here: scalp, bone and CSF around a brain."""

import functools

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import voxel_sizes
from scipy.ndimage import distance_transform_edt, gaussian_filter

from conftest import real_data
from scripts.data.phantom import draw_patient
from scripts.data.plausible import image_faults
from scripts.data.skull import MOST_DARK, darkest_layer, skull_sign
from scripts.data.volumes import Volume

SIZE = 64
SPACING = 3.5  # mm


@functools.cache
def brain_and_depth(scale=1.0):
    """A brain (1,030 ml at scale 1), and how far outside of it each voxel lies, in mm."""
    brain = draw_patient(np.random.default_rng([7, 0]), 48)[0]["t1ce"]
    brain = np.pad(brain, (SIZE - 48) // 2)
    return brain, distance_transform_edt(brain == 0) * SPACING * scale


def head(background=0.0, bone=0.1, scalp=1.6, scale=1.0, neck=False):
    """A T1ce head: 3 mm of CSF, 8 mm of bone, 7 mm of scalp, whose fat is bright; 1 is the brain's mean."""
    random = np.random.default_rng(1)
    brain, away = brain_and_depth(scale)
    mean = brain[brain > 0].mean()
    values = np.select([away == 0, away <= 3, away <= 11, away <= 18], [brain / mean, 0.3, bone, scalp], background)
    if neck:  # muscle from the head to the lower edge
        axes = np.indices(values.shape) - SIZE / 2
        below = (np.hypot(axes[0], axes[1]) * SPACING < 60) & (axes[2] < -10) & (values == background)
        values = np.where(below, 0.6, values)
    tissue = values != background
    if bone == 0:
        tissue &= (away <= 3) | (away > 11)
    noisy = np.abs(gaussian_filter(values, 0.4) + 0.03 * random.standard_normal(values.shape))
    return (noisy * mean * (tissue | (background > 0))).astype(np.float32)


HEADS = {
    "air of 0": {},
    "bone and air of 0": {"bone": 0.0},
    "air of noise": {"background": 0.02},
    "with the neck": {"neck": True},
    "a child": {"scale": 0.85},
    "fat suppressed": {"scalp": 0.7},
}


@pytest.mark.parametrize("kind", [*HEADS][:2] + [pytest.param(kind, marks=pytest.mark.slow) for kind in [*HEADS][2:]])
@pytest.mark.parametrize("covered", [1.0, pytest.param(0.6, marks=pytest.mark.slow)])
def test_a_head_with_the_skull_is_a_fault_that_names_what_to_do(kind, covered):
    spacing = SPACING * HEADS[kind].get("scale", 1.0)
    voxels = head(**HEADS[kind])[:, :, -int(SIZE * covered) :]
    affine = np.diag([-spacing, -spacing, spacing, 1])
    ((fault, remedy),) = image_faults(Volume(voxels, affine))
    assert ("skull" in fault or "voxels are not 0" in fault) and "hd-bet" in remedy and "--brain_mask" in remedy


@pytest.mark.slow
def test_the_same_heads_are_no_fault_once_stripped():
    _, away = brain_and_depth()
    for options in HEADS.values():
        spacing = SPACING * options.get("scale", 1.0)
        stripped = np.where(away <= 3, head(**options), 0)  # a mask that leaves some CSF
        assert image_faults(Volume(stripped, np.diag([-spacing, -spacing, spacing, 1]))) == []


@pytest.mark.slow
def test_bright_dura_that_stripping_left_is_no_skull():
    brain = np.kron(brain_and_depth()[0], np.ones((2, 2, 2)))  # the dura is one voxel of 1.75 mm
    rim = (brain == 0) & (distance_transform_edt(brain == 0) <= 1)
    assert rim.sum() > 10_000
    assert skull_sign(np.where(rim, brain[brain > 0].mean() * 1.5, brain), np.full(3, SPACING / 2)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["brats_2mm", "site_2mm", "brats_2mm_more", "brats_2mm_unlabelled", "brats_1mm"])
def test_no_real_stripped_brain_is_taken_for_a_head(folder):
    paths = sorted(real_data(folder).glob("*/*_t1ce.nii.gz"))
    assert paths
    for path in paths:
        image = nib.load(path)
        assert skull_sign(np.asarray(image.dataobj), voxel_sizes(image.affine)) == "", path.name


def test_coarse_voxels_tell_no_layer():
    """A phantom whose T2 has a dark layer below a bright one at 5 mm, by chance."""
    images, _ = draw_patient(np.random.default_rng([0, 1]), 32)
    assert darkest_layer(images["t2"], np.array([3.9] * 3)) > MOST_DARK
    assert skull_sign(images["t2"], np.array([5.0] * 3)) == ""


@pytest.mark.parametrize("axes", [(0,), (0, 1, 2)])
def test_an_empty_margin_changes_nothing(axes):
    voxels, spacing = head(), np.full(3, SPACING)
    width = [(7, 12) if axis in axes else (0, 0) for axis in range(3)]
    assert darkest_layer(np.pad(voxels, width), spacing) == darkest_layer(voxels, spacing) > MOST_DARK
