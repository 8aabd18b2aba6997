"""Preprocessing, on arrays with known answers."""

import monai.transforms
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscreted

from scripts.data import transforms
from scripts.data.transforms import (
    ArgMaxd,
    DarkBackgroundd,
    LoadImaged,
    Resampled,
    SelectChannelsd,
    WholeNumbersd,
    not_zero,
)


def test_channels_are_selected_by_the_entrys_own_order():
    volume = torch.arange(4.0)[:, None, None, None].expand(4, 2, 2, 2)
    select = SelectChannelsd(["image", "flair", "t1"])
    data = select(
        {"image": torch.cat([volume, volume + 10]), "flair": volume, "channels": {"image": [2, 3], "flair": 1}}
    )
    assert data["image"].amax((1, 2, 3)).tolist() == [2, 13]  # sequence 2 of the first file, 3 of the second
    assert data["flair"].amax((1, 2, 3)).tolist() == [1]
    assert "channels" not in data
    assert select({"image": volume})["image"].shape == (4, 2, 2, 2)


def test_resampling_is_linear_for_images_and_nearest_for_labels_and_off_without_spacing():
    affine = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    ramp = torch.arange(8.0)[None, :, None, None].expand(1, 8, 8, 8).clone()
    data = {key: MetaTensor(ramp.clone(), affine=affine) for key in ("image", "label")}
    halved = Resampled(["image", "label"], spacing=[0.5, 1, 1])(dict(data))
    assert halved["image"].shape == (1, 16, 8, 8)
    positions = halved["image"].affine[0, 3] + torch.arange(16) / 2  # the ramp's values are positions in mm
    torch.testing.assert_close(halved["image"].as_tensor()[0, :, 0, 0], positions.clamp(0, 7).float())
    assert set(halved["label"].unique().tolist()) <= set(range(8))
    native = Resampled(["image", "label"], spacing=None)
    assert native(data)["image"] is data["image"]
    assert native.inverse(data)["image"] is data["image"]
    back = Resampled(["image"], spacing=[2, 2, 2])
    assert back.inverse(back({"image": data["image"]}))["image"].shape == (1, 8, 8, 8)


@pytest.mark.parametrize("origin", [0.0, -0.6, 0.4, 120.0, -239.0])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_half_the_resolution_is_the_mean_of_eight_wherever_the_volume_lies(origin, direction):
    volume = torch.rand(1, 12, 10, 8, generator=torch.Generator().manual_seed(0))
    affine = torch.diag(torch.tensor([direction, 1.0, direction, 1.0]))
    affine[:3, 3] = origin
    image = MetaTensor(volume, affine=affine)
    halve, keep = Resampled("image", spacing=[2, 2, 2]), Resampled("image", spacing=[1, 1, 1])
    coarse = halve({"image": image})["image"]
    torch.testing.assert_close(coarse.as_tensor(), torch.nn.functional.avg_pool3d(volume, 2))
    first = affine.double() @ torch.tensor([0.5, 0.5, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(coarse.affine[:, 3], first)
    assert torch.equal(keep({"image": image})["image"], image)
    assert torch.equal(halve.inverse({"image": coarse})["image"].affine, image.affine)


def test_a_voxel_size_that_does_not_divide_keeps_the_centre():
    affine = torch.tensor([[0.0, -1.5, 0.0, 3.0], [1.0, 0.0, 0.0, 0.2], [0.0, 0.0, 4.0, -7.0], [0.0, 0.0, 0.0, 1.0]])
    image = MetaTensor(torch.rand(1, 9, 11, 5), affine=affine)
    coarse = Resampled("image", spacing=[2, 2, 2])({"image": image})["image"]
    assert coarse.shape == (1, 4, 8, 10) and torch.allclose(coarse.pixdim, torch.tensor(2.0).double())
    centres = [
        v.affine.double() @ torch.tensor([*((n - 1) / 2 for n in v.shape[1:]), 1.0]).double() for v in (image, coarse)
    ]
    torch.testing.assert_close(*centres)


def test_the_class_of_the_largest_logit_is_monais():
    logits = MetaTensor(torch.randint(-3, 3, (4, 6, 7, 8), generator=torch.Generator().manual_seed(0)).float())
    logits.meta["spacing"] = 2
    wanted = AsDiscreted("pred", argmax=True)({"pred": logits})["pred"]
    (found,) = ArgMaxd("pred")({"pred": logits}).values()
    assert torch.equal(found.as_tensor().float(), wanted.as_tensor()) and found.meta["spacing"] == 2


def test_labels_that_are_whole_up_to_rounding_become_whole_before_their_values_are_mapped():
    label = MetaTensor(torch.tensor([[[[0.0, 0.99999994, 3.9999998, 2.5]]]]), affine=2 * torch.eye(4))
    result = WholeNumbersd("label")({"label": label})["label"]
    assert result.flatten().tolist() == [0, 1, 4, 2.5] and torch.equal(result.affine, label.affine)


def test_only_volumes_with_negative_values_are_raised_and_their_background_stays_0():
    raw = MetaTensor(torch.tensor([[[[0.0, 5.0, 2.0]]], [[[0.0, -1.0, 1.0]]]]))
    result = DarkBackgroundd("image")({"image": raw})["image"]
    assert torch.equal(result[0], raw[0]) and result[1, 0, 0, 0] == 0
    torch.testing.assert_close(result[1, 0, 0, 1:].as_tensor(), torch.tensor([0.002, 2.002]))
    same = MetaTensor(raw[:1])
    assert DarkBackgroundd("image")({"image": same})["image"] is same
    assert not_zero(raw)[1].flatten().tolist() == [False, True, True]


@pytest.mark.parametrize("voxel", [1 - 1.2e-7, 1 + 1.2e-7, 1 + 1e-6])
def test_a_rounded_voxel_size_gives_the_same_grid(voxel):
    shapes = [
        Resampled("image", spacing=[2, 2, 2])({"image": MetaTensor(torch.rand(1, 153, 5, 7), affine=affine)})[
            "image"
        ].shape
        for affine in (torch.diag(torch.tensor([size, size, size, 1.0]).double()) for size in (1.0, voxel))
    ]
    assert shapes[0] == shapes[1]


def test_a_large_volume_is_brought_back_in_parts_with_the_same_result(monkeypatch):
    affine = torch.tensor([[0.0, -1.5, 0.2, 3.0], [1.0, 0.0, 0.0, 0.2], [0.0, 0.1, 4.0, -7.0], [0.0, 0.0, 0.0, 1.0]])
    image = MetaTensor(torch.rand(4, 9, 11, 5, generator=torch.Generator().manual_seed(0)), affine=affine)
    resample, results = Resampled("image", spacing=[2, 2, 2]), []
    coarse = resample({"image": image})
    for large in (10**6, 0):
        monkeypatch.setattr(transforms, "LARGE", large)
        monkeypatch.setattr(transforms, "SLAB", 2 * 11 * 5)
        results.append(resample.inverse({"image": coarse["image"].clone()})["image"])
    whole, parts = results
    assert parts.dtype == torch.float32 and parts.applied_operations == whole.applied_operations == []
    torch.testing.assert_close(parts.as_tensor(), whole.as_tensor().float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(parts.affine, whole.affine)


@pytest.mark.parametrize("size, spacing", [(21, 1.0), (20, 1.0), (18, 10 / 3), (18, 0.9375)])
@pytest.mark.parametrize("noise", [0, 1e-7, -1e-7, 1e-6])
def test_rounding_errors_of_headers_change_nothing(size, spacing, noise):
    """A ball of random values: what lies outside stays exactly 0, also where the two grids share positions."""
    ball = ((torch.cartesian_prod(*[torch.arange(size)] * 3) - size / 2 + 0.5) ** 2).sum(1).reshape(1, size, size, size)
    image = torch.where(ball < (0.4 * size) ** 2, 1 + torch.rand(ball.shape, generator=torch.manual_seed(0)), 0)

    def resampled(factor):
        affine = torch.diag(torch.tensor([spacing * factor] * 3 + [1.0], dtype=torch.float64))
        return Resampled(["image"], spacing=[2, 2, 2])({"image": MetaTensor(image, affine=affine)})["image"].as_tensor()

    one = resampled(1 + noise)
    torch.testing.assert_close(one, resampled(1), rtol=0, atol=1e-4)
    assert torch.equal(one != 0, resampled(1) != 0) and not ((one != 0) & (one < 1e-5)).any()


def test_the_sform_counts_where_both_have_codes(tmp_path):
    """As in the checks; MONAI would take the qform, since pixdim is nearer to it, and turn the image."""
    affine = np.diag([2.0, 2, 2, 1])
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), affine)
    image.set_sform(affine @ np.diag([1.001, 1, 1, 1]), 2)
    image.set_qform(np.array([[0, 1, 0, 5], [-1, 0, 0, 30], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine, 1)
    for name in ("a", "b"):
        nib.save(image, tmp_path / f"{name}.nii.gz")
    a, b = (str(tmp_path / f"{name}.nii.gz") for name in ("a", "b"))
    loaded = LoadImaged(["image", "label"])({"image": [a, b], "label": a})  # one file, and two as channels
    for volume in loaded.values():
        np.testing.assert_allclose(volume.affine, image.get_sform())
        np.testing.assert_allclose(volume.meta["original_affine"], image.get_sform())
    assert not np.allclose(
        monai.transforms.LoadImaged("label")({"label": a})["label"].affine, image.get_sform(), atol=0.1
    )
