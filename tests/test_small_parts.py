import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.inference.small_parts import ClearSmallPartsd, clear_small_parts

NCR, ED, ET = 1, 2, 3


def line(*values):
    """A label map of one row of voxels."""
    return np.array(values, np.uint8).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    "before, after",
    [
        ([ED, ED, ED, 0, ED, ED, 0, ED], [ED, ED, ED, 0, ED, ED, 0, 0]),  # tumour: background
        ([ED, NCR, NCR, ED, NCR, ED], [ED, NCR, NCR, ED, ED, ED]),  # core: oedema
        ([ED, NCR, ET, ED, ET, ET], [ED, NCR, NCR, ED, ET, ET]),  # enhancing: NCR, and the core of two voxels stays
        ([ED, ET, ED, 0, ED, ED], [ED, NCR, ED, 0, ED, ED]),  # a core that is enhancing tumour alone
        ([0, ET, 0, 0, 0], [0, NCR, 0, 0, 0]),  # the only part stays tumour and core
        ([0, ET, 0, ED, 0], [0, NCR, 0, 0, 0]),  # of equal parts the first
        ([ED, ED, 0, ET], [ED, ED, 0, 0]),  # a core in a small part of its own goes with it
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_parts_of_less_than_two_voxels_become_what_surrounds_them(before, after):
    assert clear_small_parts(line(*before), voxel_ml=0.5, smallest_ml=1.0).ravel().tolist() == after


def test_parts_that_touch_at_a_corner_are_one():
    classes = np.zeros((6, 2, 2), np.uint8)
    classes[0, 0, 0] = classes[1, 1, 1] = ED
    classes[3:6] = ED
    assert np.array_equal(clear_small_parts(classes, 1, 2), classes)
    classes[1, 1, 1] = 0
    assert clear_small_parts(classes, 1, 2)[:2].sum() == 0


@pytest.mark.parametrize("smallest, left", [(0, 5), (0.023, 5), (0.025, 3)])
def test_the_transform_takes_the_voxel_size_from_the_affine(smallest, left):
    turn = np.array([[0.6, -0.8, 0, 5], [0.8, 0.6, 0, 7], [0, 0, 1, 9], [0, 0, 0, 1]])  # an oblique scan
    affine = torch.from_numpy(turn @ np.diag([-2, 2, 3, 1]))
    pred = MetaTensor(torch.from_numpy(line(0, ED, ED, 0, ED, ED, ED, 0))[None], affine=affine)  # 2 x 0.012 ml
    cleared = ClearSmallPartsd("pred", smallest)({"pred": pred})["pred"]
    assert int((cleared == ED).sum()) == left and cleared.dtype == pred.dtype and cleared.shape == pred.shape
    assert torch.equal(cleared.affine, pred.affine) and int((pred == ED).sum()) == 5


def test_a_label_map_without_tumour_stays_empty():
    pred = MetaTensor(torch.zeros((1, 4, 4, 4), dtype=torch.uint8), affine=torch.eye(4))
    assert not ClearSmallPartsd("pred", 0.3)({"pred": pred})["pred"].any()


@pytest.mark.parametrize("size", [1.0, 1 - 1e-6, 1 + 1e-6, 0.99999994, 1.0000001192])
def test_a_part_that_equals_the_limit_up_to_rounding_is_kept(size):
    voxels = torch.zeros((1, 501, 3, 3), dtype=torch.uint8)
    voxels[:, :, 0, 0], voxels[:, :500, 2, 2] = ED, ED
    pred = MetaTensor(voxels, affine=torch.diag(torch.tensor([size, size, size, 1.0])))
    assert int((ClearSmallPartsd("pred", 0.5)({"pred": pred})["pred"] == ED).sum()) == 1001  # 0.5 ml
    assert int((ClearSmallPartsd("pred", 0.501)({"pred": pred})["pred"] == ED).sum()) == 501


def test_of_many_parts_those_below_the_limit_go_as_a_search_by_hand_finds():
    """A second implementation: the part of each voxel grows from that voxel until nothing is added."""
    classes = (np.random.default_rng(0).random((9, 9, 9)) > 0.93).astype(np.uint8) * ED
    sizes = np.zeros(classes.shape, int)
    for seed in map(tuple, np.argwhere(classes)):
        part, border = {seed}, [seed]
        while border:
            x, y, z = border.pop()
            for shift in np.ndindex(3, 3, 3):
                place = (x + shift[0] - 1, y + shift[1] - 1, z + shift[2] - 1)
                if min(place) >= 0 and max(place) < 9 and classes[place] and place not in part:
                    part.add(place)
                    border.append(place)
        sizes[seed] = len(part)
    assert 0 < (sizes[classes > 0] < 3).sum() < (sizes > 0).sum()
    assert np.array_equal(clear_small_parts(classes, 1, 3) > 0, sizes >= 3)
