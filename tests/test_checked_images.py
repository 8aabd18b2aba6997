"""A patient whose image fails is named, and leaves what was there of it."""

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, LoadImaged

from scripts.data.phantom import draw_patient
from scripts.inference import checked_images
from scripts.inference.checked_images import CheckedImages
from scripts.inference.record import record_inference
from scripts.inference.worklist import find_work


@pytest.mark.parametrize("error, remedy", [
    (MemoryError("8 GiB"), "end other programs, then run the command again"),
    (PermissionError(13, "Permission denied"), "repair or replace the file"),
])  # fmt: skip
@pytest.mark.parametrize("where", ["image_faults", "lay_by_header"])
def test_any_error_of_one_image_is_a_fault_of_its_patient_alone(error, remedy, where, cohort_source, monkeypatch):
    images = find_work(str(cohort_source / "data" / "phantom_0001"))["all"]

    def fail(*_):
        raise error

    monkeypatch.setattr(checked_images, where, fail)
    entry = CheckedImages(images, Compose([LoadImaged("image")]))[0]
    assert entry["case"] == "phantom_0001" and entry["remedy"] == remedy
    assert entry["fault"] == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("mapped", [True, False])
def test_a_dicom_volume_under_a_label_map_is_replaced_only_by_one_that_passes_its_check(mapped, tmp_path):
    """Without a label map, a volume with the skull stays, so that a mask can be made of it."""
    pytest.importorskip("pydicom", minversion="3", reason="the extra dicom is not installed")
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    from dicom_folders import oblique, write_dicom

    brain = draw_patient(np.random.default_rng(5), 32)[0]["t1ce"]
    brain = np.rint(brain / brain.max() * 900).astype(np.uint16)
    for folder, voxels, number in (("a", brain, 5), ("b", brain + 50, 9), ("c", 2 * brain, 7)):  # b: no background
        same = {"StudyInstanceUID": "1.2.3", "SeriesDescription": f"t1 KM {folder}", "SeriesNumber": number}
        write_dicom(tmp_path / "in" / folder, voxels, oblique(), **same)
    out = tmp_path / "out"

    def read(series):
        work = find_work(str(tmp_path / "in"), output_dir=str(out), overwrite=True, series=series)
        return work["all"], CheckedImages(work["left"], Compose([LoadImaged("image")]))[0]

    images, first = read("5")
    volume = out / "images" / "H4711_20240105_t1ce.nii.gz"
    assert "fault" not in first and first["image"].meta["filename_or_obj"] == str(volume)
    if mapped:
        record_inference(str(out), images, [], {})
        nib.save(nib.Nifti1Image(np.zeros(brain.shape, np.uint8), np.eye(4)), out / "H4711_20240105_seg.nii.gz")
    fault = read("9")[1]
    assert "voxels are not 0" in fault["fault"]
    assert (f"a mask of {volume}" in fault["remedy"]) != mapped
    assert np.asarray(nib.load(volume).dataobj).min() == (0 if mapped else 50)
    third = read("7")[1]
    assert "fault" not in third and third["image"].meta["filename_or_obj"] == str(volume)
    assert np.asarray(nib.load(volume).dataobj).max() == 1800
    assert [path.name for path in volume.parent.iterdir()] == [volume.name]


def test_an_image_lies_by_its_sform_whatever_reads_it(cohort_source, tmp_path):
    """A preprocessing of the user's own may name MONAI's LoadImaged, which takes a qform that pixdim is nearer to."""
    image = nib.load(next((cohort_source / "data" / "phantom_0001").glob("*_t1ce.nii.gz")))
    affine = np.diag([1.001, 1, 1, 1]) @ image.affine
    turned = nib.Nifti1Image(np.asarray(image.dataobj), affine)
    turned.set_sform(affine, 2)
    turned.set_qform(np.array([[0, 1, 0, 5], [-1, 0, 0, 30], [0, 0, 1, 0], [0, 0, 0, 1]]) @ image.affine, 1)
    nib.save(turned, tmp_path / "a.nii.gz")
    read = LoadImaged("image")({"image": str(tmp_path / "a.nii.gz")})["image"].affine.numpy()
    assert not np.allclose(read, affine)
    entry = {"image": str(tmp_path / "a.nii.gz"), "case": "a"}
    found = CheckedImages([entry], Compose([LoadImaged("image")]))[0]
    assert "fault" not in found, found["fault"]
    np.testing.assert_allclose(found["image"].affine.numpy(), affine, atol=1e-5)
