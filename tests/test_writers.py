from contextlib import nullcontext
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, EnsureChannelFirstd, LoadImaged, SaveImage
from scipy.stats import entropy

from scripts.data.volumes import Volume
from scripts.folders.map_files import label_map
from scripts.inference.dicom_seg import read_classes
from scripts.inference.writers import KEEP, AtomicWriter, SaveProbabilitiesd, SaveUncertaintyd, case_name, together


@pytest.fixture
def scan(tmp_path):
    """An image in a frame of zeros, cropped, and probabilities of two members on the crop."""
    voxels = np.zeros((12, 11, 10), np.float32)
    voxels[2:10, 3:9, 1:8] = 1
    path = tmp_path / "p7_t1ce.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([1, 2, 3, 1])), path)
    preprocessing = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), CropForegroundd("image", "image")])
    data = preprocessing({"image": str(path)})
    random = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        probabilities = torch.rand(4, *data["image"].shape[1:], generator=random).softmax(0)
        data[name] = MetaTensor(probabilities, meta=data["image"].meta)
    return preprocessing, data


def test_uncertainty_maps_lie_on_the_images_grid(scan, tmp_path):
    preprocessing, data = scan
    SaveUncertaintyd(["a", "b"], preprocessing, str(tmp_path / "out"))(data)
    members = np.stack([data["a"].numpy(), data["b"].numpy()])
    written = {name: nib.load(tmp_path / "out" / f"p7_{name}.nii.gz") for name in ("entropy", "variance")}
    box = (slice(2, 10), slice(3, 9), slice(1, 8))
    for image in written.values():
        assert image.shape == (12, 11, 10) and np.array_equal(image.affine, np.diag([1, 2, 3, 1]))
        outside = image.get_fdata().copy()
        outside[box] = 0
        assert not outside.any()
    expected = entropy(members.mean(0), axis=0)
    np.testing.assert_allclose(written["entropy"].get_fdata()[box], expected, atol=1e-5)
    np.testing.assert_allclose(written["variance"].get_fdata()[box], members.var(0).mean(0), atol=1e-6)


def test_one_network_has_no_variance(scan, tmp_path):
    preprocessing, data = scan
    SaveUncertaintyd("a", preprocessing, str(tmp_path / "out"))(data)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p7_entropy.nii.gz"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "x_seg.nii.gz"
    target.write_bytes(b"before")

    def full_disk(image, filename):
        Path(filename).write_bytes(b"half")
        raise OSError("no space left on device")

    writer = AtomicWriter(output_dtype=np.uint8)
    writer.set_data_array(np.zeros((4, 4, 4)), channel_dim=None)
    writer.set_metadata({"affine": np.eye(4)}, resample=False)
    monkeypatch.setattr(nib, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        writer.write(target)
    assert [path.name for path in tmp_path.iterdir()] == ["x_seg.nii.gz"] and target.read_bytes() == b"before"


def write_map(path):
    writer = AtomicWriter(output_dtype=np.uint8)
    writer.set_data_array(np.zeros((4, 4, 4)), channel_dim=None)
    writer.set_metadata({"affine": np.eye(4)}, resample=False)
    writer.write(path)


@pytest.mark.parametrize("fails", ["before", "after", ""])
def test_maps_of_uncertainty_and_probabilities_appear_with_their_label_map_or_not_at_all(fails, scan, tmp_path):
    """After it comes the DICOM SEG."""
    preprocessing, data = scan
    old = {name: tmp_path / "out" / f"p7_{name}.nii.gz" for name in ("entropy", "probabilities", "seg")}
    (tmp_path / "out").mkdir()
    for path in old.values():
        path.write_text("old")

    def changed():
        return [name for name, path in old.items() if path.read_bytes() != b"old"]

    heard = []
    with (
        pytest.raises(ValueError, match="fails") if fails else nullcontext(),
        together(lambda: heard.append(changed())),
    ):
        SaveUncertaintyd(["a", "b"], preprocessing, str(tmp_path / "out"))(data)
        SaveProbabilitiesd("a", preprocessing, str(tmp_path / "out"))(data)
        assert changed() == [] and not (tmp_path / "out" / "p7_variance.nii.gz").exists()
        if fails == "before":
            raise ValueError("fails")
        write_map(old["seg"])
        assert heard == [[*old]]
        if fails == "after":
            raise ValueError("fails")
    assert changed() == ([] if fails == "before" else [*old])
    assert heard == ([] if fails == "before" else [[*old]])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in old.values()} | ({"p7_variance.nii.gz"} if fails != "before" else set())


def test_maps_that_are_added_to_a_label_map_appear_at_the_end(scan, tmp_path):
    preprocessing, data = scan
    heard = []
    with together(lambda: heard.append(True)):
        SaveUncertaintyd("a", preprocessing, str(tmp_path / "out"))(data)
    assert heard == [True] and [path.name for path in (tmp_path / "out").iterdir()] == ["p7_entropy.nii.gz"]


@pytest.mark.parametrize("name", ["BraTS2021_00005_t1ce", "1.2.840.1", "scan.v1_t1ce", "a b (1).x"])
def test_files_are_named_after_their_case_whatever_dots_are_in_it(name, tmp_path):
    image = MetaTensor(torch.ones(1, 3, 3, 3), meta={"filename_or_obj": f"some/where/{name}.nii.gz"})
    SaveImage(tmp_path, "seg", separate_folder=False, print_log=False, output_name_formatter=case_name)(image)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name.removesuffix('_t1ce')}_seg.nii.gz"]
    assert label_map(str(tmp_path), f"some/where/{name}.nii.gz").is_file()


@pytest.mark.parametrize("keep", ["yes", ""])
def test_a_file_that_is_to_stay_is_not_written_again(keep, tmp_path):
    target, missing = tmp_path / "x_seg.nii.gz", tmp_path / "y_seg.nii.gz"
    target.write_bytes(b"corrected")
    for path in (target, missing):
        writer = AtomicWriter(output_dtype=np.uint8)
        writer.set_data_array(np.zeros((4, 4, 4)), channel_dim=None)
        writer.set_metadata({"affine": np.eye(4), KEEP: keep}, resample=False)
        writer.write(path)
    assert (target.read_bytes() == b"corrected") == bool(keep)
    assert nib.load(missing).shape == (4, 4, 4)


def test_a_label_map_is_read_on_the_grid_of_its_image_or_is_a_fault(tmp_path):
    voxels = np.zeros((5, 6, 7), np.uint8)
    voxels[1, 2, 3], voxels[1, 2, 4], affine = 4, 2, np.diag([2.0, 2, 3, 1])
    flipped = np.diag([-2.0, 2, 3, 1])
    flipped[0, 3] = 8  # the same grid, from right to left
    nib.save(nib.Nifti1Image(voxels[::-1], flipped), tmp_path / "a_seg.nii.gz")
    classes = read_classes(tmp_path / "a_seg.nii.gz", Volume(voxels, affine), {0: 0, 1: 1, 2: 2, 4: 3})
    assert classes[1, 2, 3] == 3 and classes[1, 2, 4] == 2 and np.count_nonzero(classes) == 2
    with pytest.raises(ValueError, match=r"a_seg\.nii\.gz: unknown label values \[4\]"):
        read_classes(tmp_path / "a_seg.nii.gz", Volume(voxels, affine), {0: 0, 1: 1, 2: 2, 3: 3})
    with pytest.raises(ValueError, match=r"a_seg\.nii\.gz: shape .* differs from .* its image"):
        read_classes(tmp_path / "a_seg.nii.gz", Volume(voxels[1:], affine), {0: 0, 1: 1, 2: 2, 4: 3})
