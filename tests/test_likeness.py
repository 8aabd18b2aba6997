import json

import nibabel as nib
import numpy as np
import pytest

from scripts.data.likeness import TRAITS, trait_ranges, traits_of, unlike


@pytest.fixture
def brain():
    """A ball of 40 mm with a smooth pattern, as a function of its voxel size."""

    def make(spacing):
        axes = [(np.arange(round(100 / size)) + 0.5) * size - 50 for size in spacing]
        x, y, z = np.meshgrid(*axes, indexing="ij")
        values = 100 + 20 * np.sin(x / 9) * np.cos(y / 8) + 10 * np.sin(z / 10)
        return values * (x**2 + y**2 + z**2 < 40**2)

    return make


def test_traits_by_hand(brain):
    voxels = brain((2, 2, 2))
    inside = voxels[voxels > 0]
    low, lower, middle, upper, high = np.percentile(inside, [5, 25, 50, 75, 99])
    traits = traits_of(voxels, (2, 2, 2))
    assert traits["brain_ml"] == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.02)
    assert traits["dark_end"] == pytest.approx((middle - low) / (upper - lower), rel=1e-4)
    assert traits["bright_end"] == pytest.approx((high - middle) / (upper - lower), rel=1e-4)
    assert set(traits) == set(TRAITS)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 2, 2.5)])
def test_neither_voxel_size_nor_scale_change_the_traits(brain, spacing):
    expected = traits_of(brain((2, 2, 2)), (2, 2, 2))
    other = brain(spacing)
    assert traits_of(np.where(other, 7 * other + 300, 0), spacing) == pytest.approx(expected, rel=0.05)


def test_a_blurred_image_is_less_sharp(brain):
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    voxels = brain((2, 2, 2))
    rough = np.where(voxels, voxels + random.normal(0, 5, voxels.shape), 0)
    smooth = np.where(voxels, gaussian_filter(rough, 1), 0)
    assert traits_of(smooth, (2, 2, 2))["sharpness"] < 0.7 * traits_of(rough, (2, 2, 2))["sharpness"]


def test_ranges_span_the_training_and_name_what_lies_outside(brain, tmp_path):
    cases = []
    for number in range(8):
        nib.save(nib.Nifti1Image(brain((2, 2, 2)) * (1 + number), np.diag([2, 2, 2, 1.0])), tmp_path / f"{number}.nii")
        cases.append({"image": str(tmp_path / f"{number}.nii")})
    ranges = json.loads(json.dumps(trait_ranges(cases)))
    traits = traits_of(brain((2, 2, 2)), (2, 2, 2))
    low, high = ranges["sharpness"]
    assert low == pytest.approx(traits["sharpness"], rel=1e-3) and high >= low
    assert unlike({name: ranges[name][0] for name in ranges}, ranges) == []
    strange = {name: ranges[name][0] for name in ranges} | {"brain_ml": 900.0}
    assert [text[:29] for text in unlike(strange, ranges)] == ["a larger brain (900 ml, in tr"]
    assert trait_ranges(cases[:7]) == {}
