"""Preprocessing and caching, on arrays with known answers."""

import os

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor, PersistentDataset
from monai.transforms import AsDiscreted, Compose, CropForegroundd, LoadImaged, RandGaussianNoised

from scripts.caching import cached_dataset
from scripts.errors import UserError
from scripts.transforms import ArgMaxd, Resampled, SelectChannelsd


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


@pytest.mark.parametrize("cache, kind", [("memory", CacheDataset), ("disk", PersistentDataset)])
def test_files_are_read_once_and_random_transforms_run_each_time(tmp_path, cache, kind):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), path)
    preprocessing = Compose([LoadImaged("image", ensure_channel_first=True)])
    patches = Compose([RandGaussianNoised("image", prob=1.0)])
    entries = [{"image": str(path)}]
    data = cached_dataset(entries, preprocessing, patches, cache, str(tmp_path / "cache"))
    assert isinstance(data, kind)
    first = data[0]["image"]
    before = path.stat()
    path.write_bytes(bytes(before.st_size))  # not to be read again
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = data[0]["image"]
    assert not torch.equal(first, again)


def test_a_cropped_case_is_stored_at_its_cropped_size(tmp_path):
    voxels = np.zeros((64, 64, 64), np.float32)
    voxels[20:30, 20:30, 20:30] = 1
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    crop = Compose([LoadImaged("image", ensure_channel_first=True), CropForegroundd("image", source_key="image")])
    cached_dataset([{"image": str(tmp_path / "a.nii.gz")}], crop, None, "disk", str(tmp_path / "cache"))[0]
    (stored,) = (tmp_path / "cache").iterdir()
    assert stored.stat().st_size < 4 * 10**3 + 20_000  # 10³ voxels, not 64³


def test_an_unknown_cache_is_named():
    with pytest.raises(UserError, match="cache is 'ram'"):
        cached_dataset([], Compose([]), cache="ram")


def test_the_class_of_the_largest_logit_is_monais():
    logits = MetaTensor(torch.randint(-3, 3, (4, 6, 7, 8), generator=torch.Generator().manual_seed(0)).float())
    logits.meta["spacing"] = 2
    wanted = AsDiscreted("pred", argmax=True)({"pred": logits})["pred"]
    (found,) = ArgMaxd("pred")({"pred": logits}).values()
    assert torch.equal(found.as_tensor().float(), wanted.as_tensor()) and found.meta["spacing"] == 2


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    path, load = tmp_path / "a.nii.gz", Compose([LoadImaged("image")])
    for value in (1, 7):
        nib.save(nib.Nifti1Image(np.full((4, 4, 4), value, np.float32), np.eye(4)), path)
        data = cached_dataset([{"image": str(path)}], load, None, "disk", str(tmp_path / "cache"))
        assert float(data[0]["image"].max()) == value
