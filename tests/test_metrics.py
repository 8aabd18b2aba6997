import numpy as np
import pytest
import surface_distance
import torch
from monai.metrics import compute_confusion_matrix_metric, compute_dice, get_confusion_matrix
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial import cKDTree

from scripts.evaluation.metrics import COLUMNS, region_metrics
from scripts.labels import NO_OVERLAP_MM
from scripts.method.confidence import whole_tumour_dice

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 1.3, 4.0)]


def blobs(seed, shape=(30, 26, 22)):
    """Two overlapping masks of several ragged parts, some at the border of the grid."""
    random = np.random.default_rng(seed)
    fields = gaussian_filter(random.standard_normal((2, *shape)), (0, 2, 2, 2))
    level = np.quantile(fields[0], 0.85)
    return fields[0] > level, 0.7 * fields[0] + 0.5 * fields[1] > level


def cubes(shift):
    predicted, truth = np.zeros((2, 24, 24, 24), bool)
    truth[6:14, 6:14, 6:14] = True
    predicted[6 + shift : 14 + shift, 6:14, 6:14] = True
    return predicted, truth


def brute_force_hd95(predicted, truth, spacing):
    surfaces = [np.argwhere(mask & ~binary_erosion(mask)) * np.array(spacing) for mask in (predicted, truth)]
    directed = [cKDTree(surfaces[1 - i]).query(surfaces[i])[0] for i in (0, 1)]
    return max(np.percentile(distances, 95) for distances in directed)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("masks", [blobs(0), blobs(1), blobs(2), cubes(1), cubes(5)])
def test_metrics_equal_other_implementations(masks, spacing):
    predicted, truth = masks
    metrics = region_metrics(predicted, truth, spacing)
    assert list(metrics) == list(COLUMNS)
    tensors = [torch.from_numpy(mask[None, None]).float() for mask in masks]
    assert metrics["dice"] == pytest.approx(compute_dice(*tensors).item())
    counts = get_confusion_matrix(*tensors)
    for name in ("sensitivity", "precision"):
        assert metrics[name] == pytest.approx(compute_confusion_matrix_metric(name, counts).item())
    assert metrics["hd95"] == pytest.approx(brute_force_hd95(predicted, truth, spacing), rel=1e-5)
    distances = surface_distance.compute_surface_distances(truth, predicted, spacing)
    assert metrics["nsd"] == pytest.approx(surface_distance.compute_surface_dice_at_tolerance(distances, 1), abs=1e-5)


def test_a_cube_shifted_by_three_voxels_by_hand():
    metrics = region_metrics(*cubes(3), (2.0, 1.0, 1.0))
    assert metrics["dice"] == metrics["sensitivity"] == metrics["precision"] == pytest.approx(5 / 8)
    assert metrics["hd95"] == pytest.approx(6)
    assert metrics["volume_error_ml"] == 0
    assert metrics["slice_mean_dice"] == pytest.approx((24 - 6) / 24)


def test_slice_mean_dice_is_the_papers():
    predicted, truth = blobs(4)
    logits = torch.from_numpy(np.stack([~predicted, predicted]))[None].float()
    label = torch.from_numpy(truth[None, None])
    expected = whole_tumour_dice(logits, label, "slice_mean").item()
    assert region_metrics(predicted, truth, (1, 1, 1))["slice_mean_dice"] == pytest.approx(expected)


def test_an_all_background_prediction_scores_nothing_but_on_the_papers_scale():
    truth = cubes(0)[1]
    metrics = region_metrics(np.zeros_like(truth), truth, (1, 1, 1))
    assert metrics["dice"] == metrics["nsd"] == metrics["sensitivity"] == metrics["precision"] == 0
    assert metrics["hd95"] == NO_OVERLAP_MM
    assert (metrics["lesion_dice"], metrics["lesion_hd95"]) == (0, 374)
    assert metrics["volume_error_ml"] == pytest.approx(-0.512)
    assert metrics["slice_mean_dice"] == pytest.approx(16 / 24)


def test_the_rule_for_empty_regions():
    nothing = np.zeros((8, 8, 8), bool)
    something = nothing.copy()
    something[2:6, 2:6, 2:6] = True
    both = region_metrics(nothing, nothing, (1, 1, 1))
    assert all(both[name] == 1 for name in ("dice", "nsd", "sensitivity", "precision", "lesion_dice"))
    assert both["hd95"] == both["lesion_hd95"] == both["volume_error_ml"] == 0
    false = region_metrics(something, nothing, (1, 1, 1))
    assert (false["dice"], false["hd95"], false["lesion_hd95"]) == (0, NO_OVERLAP_MM, 374)
    for masks in ((nothing, nothing), (something, nothing), (nothing, something)):
        left_out = region_metrics(*masks, (1, 1, 1), empty_rule="exclude")
        assert all(np.isnan(value) for value in left_out.values())


def test_masks_of_different_shapes_and_unknown_rules_are_errors():
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and \(4, 4, 5\)"):
        region_metrics(np.zeros((4, 4, 4), bool), np.zeros((4, 4, 5), bool), (1, 1, 1))
    with pytest.raises(ValueError, match="'skip'"):
        region_metrics(*cubes(1), (1, 1, 1), empty_rule="skip")
