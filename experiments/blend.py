"""The mean of class probabilities that several networks wrote, for a student that learns from all of them.

python experiments/blend.py --folders DIR,DIR --output_dir OUT

Each folder holds NAME_probabilities.nii.gz as ``predict --probabilities True`` writes them, of the same patients.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.command import run_command
from scripts.errors import UserError
from scripts.evaluation.run_paths import run_paths
from scripts.inference.writers import write_probabilities
from scripts.labels import PROBABILITIES


def blend(folders: str, output_dir: str) -> None:
    """Write the mean of each patient's probabilities (H, W, D, C).

    Raises:
        UserError: if the folders hold other patients.
    """
    sources = [Path(folder) for folder in run_paths(folders)]
    names = [{path.name for path in source.glob(f"*_{PROBABILITIES}.nii.gz")} for source in sources]
    if not names[0] or any(other != names[0] for other in names):
        counts = [len(other) for other in names]
        raise UserError(f"{folders} hold {counts} patients, expected the same ones: predict one datalist for each.")
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    for name in sorted(names[0]):
        images = [nib.load(source / name) for source in sources]
        mean = np.mean([image.get_fdata(dtype=np.float32) for image in images], axis=0)
        write_probabilities(Path(output_dir, name), mean.transpose(3, 0, 1, 2), images[0].affine)


if __name__ == "__main__":
    run_command(blend)
