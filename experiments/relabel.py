"""Links to BraTS patients, with enhancing tumour as 4 in their label maps, so that two editions can be one data set.

python experiments/relabel.py --dataset_dir DIR --output_dir OUT

DIR holds patients of BraTS 2023 or later, whose label maps have 3. OUT gets a folder for each patient.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.command import run_command
from scripts.files import replacing


def relabel(dataset_dir: str, output_dir: str) -> None:
    """Make OUT, whose label maps are copies and whose images are links. A file that is there is kept."""
    for path in sorted(Path(dataset_dir).glob("*/*.nii.gz")):
        target = Path(output_dir, path.parent.name, path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            continue
        if path.name.endswith(("_seg.nii.gz", "-seg.nii.gz")):
            label = nib.load(path)
            voxels = np.asarray(label.dataobj)
            with replacing(target) as partial:
                nib.save(nib.Nifti1Image(np.where(voxels == 3, 4, voxels).astype(np.uint8), label.affine), partial)
        else:
            target.symlink_to(path.resolve())


if __name__ == "__main__":
    run_command(relabel)
