"""Oedema that students miss, counted voxel by voxel."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from missed import missed
from scripts.errors import UserError


@pytest.fixture
def row(tmp_path):
    """Writes a label map of rows of voxels, all alike."""

    def write(folder: str, values: list[int]) -> None:
        path = tmp_path / folder / "case_a_seg.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.broadcast_to(np.array(values, np.uint8)[:, None, None], (len(values), 2, 2))
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)

    return write


def test_missed_oedema_is_counted(row, tmp_path, capsys):
    row("truth", [2, 2, 2, 2, 1, 0, 0, 0])
    row("alone_s0", [2, 0, 0, 0, 0, 1, 0, 0])  # the core is no oedema, so not missed
    row("alone_s1", [0, 4, 0, 0, 1, 0, 0, 0])
    row("other_s0", [0, 0, 1, 0, 0, 1, 1, 1])  # half of the two that both miss, 3 false of a tumour of 5
    row("other_s1", [0, 0, 2, 2, 0, 0, 1, 1])
    runs = f"other={tmp_path}/other_s*"
    missed(str(tmp_path / "truth"), f"{tmp_path}/alone_s[01]", runs)
    head, line = (line for line in capsys.readouterr().out.splitlines() if "0." in line)
    assert "0.50 of all voxels" in head
    assert line.split("[")[0].split() == ["other", "0.75"]
    assert line.split()[4] == "0.50"
    with pytest.raises(UserError, match="no folder matches"):
        missed(str(tmp_path / "truth"), f"{tmp_path}/nobody_s*", runs)
    (tmp_path / "other_s1" / "case_a_seg.nii.gz").rename(tmp_path / "other_s1" / "case_b_seg.nii.gz")
    with pytest.raises(UserError, match="a run of other has no label map of case_a"):
        missed(str(tmp_path / "truth"), f"{tmp_path}/alone_s[01]", runs)
