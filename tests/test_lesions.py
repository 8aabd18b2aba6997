import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter, generate_binary_structure, label

from scripts.evaluation.lesions import dilate, lesion_metrics
from scripts.evaluation.metrics import region_metrics


def box(mask, start, size=4):
    mask[tuple(slice(corner, corner + size) for corner in start)] = True


@pytest.fixture
def two_lesions():
    truth = np.zeros((40, 24, 24), bool)
    box(truth, (4, 4, 4))
    box(truth, (24, 4, 4))
    return truth


def test_a_hit_a_miss_and_a_false_lesion(two_lesions):
    predicted = np.zeros_like(two_lesions)
    box(predicted, (6, 4, 4))  # 2 voxels aside: Dice 1/2, HD95 2 mm
    box(predicted, (14, 16, 16))  # touches nothing
    scores = lesion_metrics(predicted, two_lesions, (1, 1, 1))
    assert scores["lesion_dice"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert scores["lesion_hd95"] == pytest.approx((2 + 374 + 374) / 3)


def test_parts_whose_surroundings_touch_are_one_lesion():
    truth = np.zeros((40, 24, 24), bool)
    box(truth, (4, 4, 4))
    box(truth, (14, 4, 4))  # 6 voxels between: the dilated parts meet
    predicted = np.zeros_like(truth)
    box(predicted, (4, 4, 4))
    assert lesion_metrics(predicted, truth, (1, 1, 1))["lesion_dice"] == pytest.approx(2 * 64 / (64 + 128))
    apart = np.zeros_like(truth)
    box(apart, (4, 4, 4))
    box(apart, (15, 4, 4))
    assert lesion_metrics(predicted, apart, (1, 1, 1))["lesion_dice"] == pytest.approx(1 / 2)


def test_small_lesions_do_not_count_and_finding_them_is_not_false():
    truth = np.zeros((40, 24, 24), bool)
    box(truth, (4, 4, 4))
    box(truth, (24, 4, 4), size=3)  # 27 mm³
    assert lesion_metrics(truth, truth, (1, 1, 1)) == {"lesion_dice": 1, "lesion_hd95": 0}
    missed = truth.copy()
    missed[20:] = False
    assert lesion_metrics(missed, truth, (1, 1, 1)) == {"lesion_dice": 1, "lesion_hd95": 0}
    # at 2 mm the small one has 216 mm³
    assert lesion_metrics(missed, truth, (2, 2, 2))["lesion_dice"] == pytest.approx(1 / 2)


def test_nothing_to_count():
    nothing = np.zeros((8, 8, 8), bool)
    assert lesion_metrics(nothing, nothing, (1, 1, 1)) == {"lesion_dice": 1, "lesion_hd95": 0}


def test_the_reach_is_in_millimetres():
    mask = np.zeros((21, 21, 21), bool)
    mask[10, 10, 10] = True
    extent = [np.ptp(np.argwhere(dilate(mask, (1, 1.5, 4)))[:, axis]) // 2 for axis in range(3)]
    assert extent == [3, 2, 0]


def organisers(predicted, truth):
    """The rules read once more, voxel by voxel as published, for 1 mm."""
    around, full = generate_binary_structure(3, 2), np.ones((3, 3, 3))
    grown, count = label(binary_dilation(truth, around, iterations=3), full)
    components, total = label(predicted, full)
    scores, touched = [], set()
    for index in range(1, count + 1):
        lesion = truth & (grown == index)
        near = binary_dilation(lesion, around, iterations=3)
        parts = set(np.unique(components[near])) - {0}
        touched |= parts
        if lesion.sum() > 50:
            found = np.isin(components, list(parts))
            same = region_metrics(found, lesion, (1, 1, 1)) if parts else {"dice": 0, "hd95": 374}
            scores.append((same["dice"], same["hd95"]))
    scores += [(0, 374)] * (total - len(touched))
    return np.mean(scores, axis=0) if scores else np.array([1, 0])


@pytest.mark.parametrize("seed", range(4))
def test_random_masks_follow_the_organisers_rules(seed):
    random = np.random.default_rng(seed)
    fields = gaussian_filter(random.standard_normal((2, 48, 40, 36)), (0, 2, 2, 2))
    level = np.quantile(fields[0], 0.96)
    truth, predicted = fields[0] > level, 0.8 * fields[0] + 0.5 * fields[1] > level
    scores = lesion_metrics(predicted, truth, (1, 1, 1))
    assert list(scores.values()) == pytest.approx(list(organisers(predicted, truth)), rel=1e-6)
    assert 0 < scores["lesion_dice"] < 1


@pytest.mark.parametrize("size", [1.0, 1.5, 2.0, 3.0, 0.5])
def test_scores_do_not_jump_where_a_voxel_size_is_rounded(size):
    random = np.random.default_rng(7)
    fields = gaussian_filter(random.standard_normal((2, 40, 36, 32)), (0, 2, 2, 2))
    level = np.quantile(fields[0], 0.95)
    truth, predicted = fields[0] > level, 0.8 * fields[0] + 0.5 * fields[1] > level
    truth[:5, :5, :2], predicted[:5, :5, 2:4] = True, True  # 50 voxels: a lesion of exactly 50 mm³ at 1 mm
    exact = region_metrics(predicted, truth, (size,) * 3)
    for other in (np.nextafter(np.float32(size), np.float32(9)), size + 1e-6, size - 1e-6):
        near = region_metrics(predicted, truth, (float(other),) * 3)
        assert all(abs(near[name] - exact[name]) <= 1e-4 * max(1, abs(exact[name])) for name in exact), other
