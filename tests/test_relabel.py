"""Links to patients whose label maps have another value of enhancing tumour."""

import shutil

import nibabel as nib
import numpy as np

from relabel import relabel


def test_labels_get_the_older_value_and_images_stay(cohort, tmp_path):
    folder = cohort / "data" / "phantom_0001"
    label = nib.load(folder / "phantom_0001_seg.nii.gz")
    voxels = np.asarray(label.dataobj)
    newer = nib.Nifti1Image(np.where(voxels == 4, 3, voxels).astype(np.uint8), label.affine)
    nib.save(newer, folder / "phantom_0001_seg.nii.gz")
    shutil.copy(folder / "phantom_0001_seg.nii.gz", folder / "phantom_0001-seg.nii.gz")  # BraTS 2023's own ending
    relabel(str(cohort / "data"), str(tmp_path / "out"))
    made = tmp_path / "out" / "phantom_0001"
    for ending in ("_seg", "-seg"):
        assert np.array_equal(np.asarray(nib.load(made / f"phantom_0001{ending}.nii.gz").dataobj), voxels)
    assert {path.name for path in made.iterdir()} == {path.name for path in folder.iterdir()}
    assert (made / "phantom_0001_t1ce.nii.gz").read_bytes() == (folder / "phantom_0001_t1ce.nii.gz").read_bytes()
