"""Surface distances and lesion scores against MONAI's own functions on whole volumes."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import create_table_neighbour_code_to_surface_area
from scipy.ndimage import binary_dilation, gaussian_filter, label

from scripts.evaluation.lesions import MISSED_MM, SLACK, dilate, lesion_metrics
from scripts.evaluation.metrics import region_metrics
from scripts.evaluation.surfaces import hausdorff_95, percentile_95, surface_areas, surface_dice

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 1.3, 4.0), (2.0, 1.0, 0.5)]
SHAPE = (28, 24, 20)


def ragged(seed):
    """Masks of several ragged parts, some at the border."""
    fields = gaussian_filter(np.random.default_rng(seed).standard_normal((2, *SHAPE)), (0, 1.5, 1.5, 1.5))
    level = np.quantile(fields[0], 0.94)
    return 0.8 * fields[0] + 0.5 * fields[1] > level, fields[0] > level


def boxes(*corners):
    """A mask of boxes, each given by its first voxel and its size."""
    mask = np.zeros(SHAPE, bool)
    for start, size in corners:
        mask[tuple(slice(a, a + n) for a, n in zip(start, size))] = True
    return mask


MASKS = {
    "ragged": ragged(0),
    "ragged, others": ragged(1),
    "single voxels": (boxes(((3, 4, 5), (1, 1, 1))), boxes(((20, 4, 9), (1, 1, 1)))),
    "the same voxel": (boxes(((3, 4, 5), (1, 1, 1))), boxes(((3, 4, 5), (1, 1, 1)))),
    "a voxel in a corner": (boxes(((0, 0, 0), (1, 1, 1))), boxes(((0, 0, 0), (4, 5, 6)))),
    "all borders": (boxes(((0, 0, 0), SHAPE)), boxes(((0, 0, 0), SHAPE), ((0, 0, 0), (1, 1, 1)))),
    "opposite borders": (boxes(((0, 3, 3), (5, 5, 5))), boxes(((24, 3, 3), (4, 6, 5)), ((0, 3, 3), (5, 5, 6)))),
    "plates": (boxes(((0, 5, 0), (28, 1, 20))), boxes(((0, 6, 0), (28, 1, 20)))),
    "many lesions": (
        boxes(*(((a, b, 2), (5, 4, 6)) for a in (1, 12, 22) for b in (2, 13))),
        boxes(*(((a, b, 3), (4, 5, 6)) for a in (0, 12, 21) for b in (2, 14)), ((1, 9, 16), (3, 2, 2))),
    ),
    "only false ones": (boxes(((3, 4, 5), (2, 2, 2)), ((20, 4, 9), (3, 3, 3))), boxes()),
    "only missed ones": (boxes(), boxes(((3, 4, 5), (5, 5, 5)), ((20, 4, 9), (6, 6, 6)))),
    "nothing": (boxes(), boxes()),
}
BOTH = [name for name, masks in MASKS.items() if masks[0].any() and masks[1].any()]


def monai_hd95(predicted, truth, spacing):
    tensors = [torch.from_numpy(mask[None, None]) for mask in (predicted, truth)]
    return compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=list(spacing)).item()


def monai_nsd(predicted, truth, spacing, tolerance):
    tensors = [torch.from_numpy(mask[None, None]) for mask in (predicted, truth)]
    options = {"include_background": True, "spacing": list(spacing), "use_subvoxels": True}
    return compute_surface_dice(*tensors, [tolerance], **options).item()


def by_definition(mask, spacing):
    """The dilation of lesions.py, by SciPy with the whole structuring element."""
    steps = [int(3 * SLACK // size) for size in spacing]
    offsets = np.meshgrid(*(np.arange(-n, n + 1) * size for n, size in zip(steps, spacing)), indexing="ij")
    return binary_dilation(mask, np.abs(offsets).sum(0) <= 6 * SLACK)


def lesions_one_by_one(predicted, truth, spacing):
    """Lesion scores of whole volumes, one lesion after the other, with MONAI's HD95."""
    full = np.ones((3, 3, 3))
    components, total = label(predicted, full)
    grown, count = label(by_definition(truth, spacing), full)
    scores, touched = [], set()
    for index in range(1, count + 1):
        lesion, parts = truth & (grown == index), set(components[grown == index].tolist()) - {0}
        touched |= parts
        if lesion.sum() * np.prod(spacing) > 50 * SLACK:
            found = np.isin(components, list(parts))
            dice = 2 * (found & lesion).sum() / (found.sum() + lesion.sum())
            scores.append((dice, monai_hd95(found, lesion, spacing) if parts else MISSED_MM))
    scores += [(0, MISSED_MM)] * (total - len(touched))
    return np.mean(scores, axis=0) if scores else (1, 0)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", BOTH)
def test_surface_scores_equal_monais_on_the_whole_volume(name, spacing):
    masks = MASKS[name]
    expected = {"hd95": monai_hd95(*masks, spacing), "nsd": monai_nsd(*masks, spacing, SLACK)}
    scores = region_metrics(*masks, spacing)
    assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert hausdorff_95(*masks, spacing) == pytest.approx(expected["hd95"], abs=1e-6)
    for tolerance in (0.5, 2.0, 4.0):
        assert surface_dice(*masks, spacing, tolerance) == pytest.approx(
            monai_nsd(*masks, spacing, tolerance), abs=1e-6
        )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", MASKS)
def test_lesion_scores_equal_those_of_one_lesion_after_the_other(name, spacing):
    masks = MASKS[name]
    expected = dict(zip(("lesion_dice", "lesion_hd95"), lesions_one_by_one(*masks, spacing)))
    assert lesion_metrics(*masks, spacing) == pytest.approx(expected, abs=1e-6)
    scores = region_metrics(*masks, spacing)
    assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spacing", [*SPACINGS, (5.0, 1.0, 1.5)])
@pytest.mark.parametrize("name", MASKS)
def test_dilation_equals_scipys(name, spacing):
    for mask in MASKS[name]:
        expected = by_definition(mask, spacing)
        assert np.array_equal(dilate(mask, spacing), expected)
        assert np.array_equal(dilate(np.asfortranarray(mask), spacing), expected)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_areas_equal_monais_for_every_neighbourhood(spacing):
    areas, _ = create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(surface_areas(spacing), areas.numpy(), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 21, 1000, 70_001])
def test_the_percentile_equals_torchs(count):
    random = np.random.default_rng(count)
    for distances in (random.random(count) * 40, np.sqrt(random.integers(0, 900, count))):
        distances = distances.astype(np.float32)
        expected = torch.quantile(torch.from_numpy(distances), 0.95).item()
        assert percentile_95(distances) == expected
