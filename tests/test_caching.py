"""Files are read once, unless they change, and only what was cropped is stored."""

import errno
import os
import sys
from importlib.machinery import SourceFileLoader

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import Compose, CropForegroundd, Invertd, LoadImaged, RandGaussianNoised, ScaleIntensityd

from scripts.data.caching import cached_dataset
from scripts.errors import UserError


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


def test_missing_patients_are_named():
    with pytest.raises(UserError, match="--dataset_dir .*--datalist"):
        cached_dataset([], Compose([]))


def test_a_file_that_was_replaced_is_read_again(tmp_path):
    path, load = tmp_path / "a.nii.gz", Compose([LoadImaged("image")])
    for value in (1, 7):
        nib.save(nib.Nifti1Image(np.full((4, 4, 4), value, np.float32), np.eye(4)), path)
        data = cached_dataset([{"image": str(path)}], load, None, "disk", str(tmp_path / "cache"))
        assert float(data[0]["image"].max()) == value


def test_a_transform_whose_code_changed_is_applied_again(tmp_path, monkeypatch):
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    code = "from monai.transforms import MapTransform\nclass Times(MapTransform):\n    def __call__(self, data):\n"
    code += "        return {'image': data['image'] * %d}\n"
    for factor in (2, 300):
        (tmp_path / "own_times.py").write_text(code % factor)
        times = SourceFileLoader("own_times", str(tmp_path / "own_times.py")).load_module()
        monkeypatch.setitem(sys.modules, "own_times", times)
        steps = Compose([LoadImaged("image"), times.Times("image")])
        data = cached_dataset([{"image": str(tmp_path / "a.nii.gz")}], steps, None, "disk", str(tmp_path / "cache"))
        assert float(data[0]["image"].max()) == factor


def inverted(data, transform):
    """The image of the first case, brought back to its own grid."""
    item = data[0]
    return Invertd("image", transform, nearest_interp=False)(item)["image"]


def test_a_case_from_the_disk_goes_back_to_its_own_grid(tmp_path):
    voxels = np.zeros((9, 8, 7), np.float32)
    voxels[2:6, 3:7, 1:5] = np.random.default_rng(0).random((4, 4, 4)) + 1
    nib.save(nib.Nifti1Image(voxels, np.diag([1, 2, 3, 1])), tmp_path / "a.nii.gz")
    entries, results = [{"image": str(tmp_path / "a.nii.gz")}], []
    for _ in range(2):  # as two commands would do, each with transforms of its own
        load = LoadImaged("image", ensure_channel_first=True)
        transform = Compose([load, CropForegroundd("image", source_key="image")])
        data = cached_dataset(entries, transform, None, "disk", str(tmp_path / "cache"))
        results.append(inverted(data, transform))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    for result in results:
        np.testing.assert_array_equal(result[0].numpy(), voxels)
        np.testing.assert_array_equal(result.affine.numpy(), np.diag([1, 2, 3, 1]))


@pytest.mark.parametrize("content", [b"", b"half", None])
def test_a_damaged_cache_file_is_made_again(content, tmp_path):
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 5, np.float32), np.eye(4)), tmp_path / "a.nii.gz")

    def first():
        """The case as a new command reads it."""
        entries = [{"image": str(tmp_path / "a.nii.gz")}]
        return cached_dataset(entries, Compose([LoadImaged("image")]), None, "disk", str(tmp_path / "cache"))[0]

    first()
    (stored,) = (tmp_path / "cache").iterdir()
    whole = stored.read_bytes()
    stored.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert float(first()["image"].min()) == 5
    assert list((tmp_path / "cache").iterdir()) == [stored] and stored.stat().st_size > len(whole) // 2 + 1


def test_a_full_disk_is_named_and_leaves_no_half_file(tmp_path, small_files):
    nib.save(nib.Nifti1Image(np.full((16, 16, 16), 5, np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    data = cached_dataset(
        [{"image": str(tmp_path / "a.nii.gz")}], Compose([LoadImaged("image")]), None, "disk", str(tmp_path / "cache")
    )
    with small_files(5000), pytest.raises(UserError, match=os.strerror(errno.EFBIG)):
        data[0]
    assert not list((tmp_path / "cache").iterdir())
    assert float(data[0]["image"].min()) == 5


def test_other_transforms_get_other_cache_files(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    for factor in (0.0, 1.0):
        steps = Compose([LoadImaged("image"), ScaleIntensityd("image", minv=None, maxv=None, factor=factor)])
        data = cached_dataset([{"image": str(tmp_path / "a.nii.gz")}], steps, None, "disk", str(tmp_path / "cache"))
        assert float(data[0]["image"].max()) == 1 + factor
