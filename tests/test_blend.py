"""The mean of what several networks predicted."""

import nibabel as nib
import numpy as np
import pytest

from blend import blend
from scripts.errors import UserError
from scripts.inference.writers import write_probabilities


def test_the_mean_of_two_folders_is_that_of_their_probabilities(tmp_path):
    random, affine = np.random.default_rng(0), np.diag([2.0, 2.0, 2.0, 1.0])
    given = [random.dirichlet([1] * 4, (3, 4, 5)).transpose(3, 0, 1, 2) for _ in range(2)]
    for name, probabilities in zip("ab", given):
        (tmp_path / name).mkdir()
        write_probabilities(tmp_path / name / "case_probabilities.nii.gz", probabilities, affine)
    blend(f"{tmp_path / 'a'},{tmp_path / 'b'}", str(tmp_path / "out"))
    mean = nib.load(tmp_path / "out" / "case_probabilities.nii.gz")
    expected = (given[0] + given[1]) / 2
    np.testing.assert_allclose(mean.get_fdata().transpose(3, 0, 1, 2), expected, atol=1.5 / 255)  # 8 bit, twice
    assert np.array_equal(mean.affine, affine)
    (tmp_path / "b" / "case_probabilities.nii.gz").unlink()
    with pytest.raises(UserError, match=r"hold \[1, 0\] patients"):
        blend(f"{tmp_path}/a,{tmp_path}/b", str(tmp_path / "out"))
