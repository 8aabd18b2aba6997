"""Phantom patients in the form of BraTS, to try commands without data. They support no claim about real patients."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from scripts.errors import UserError
from scripts.files import check_folder, replacing
from scripts.labels import BRATS_2018

EXTENT = 160.0  # mm, edge of the cubic volume

# Mean signal of each tissue, relative to white matter on T1. As in glioma, oedema is bright on FLAIR and T2, a little
# dark on T1 and almost invisible on T1ce, where enhancing tumour and vessels are bright.
TISSUES = ("CSF", "grey matter", "white matter", "vessel", "NCR", "ED", "ET")
SIGNAL = {
    "flair": (0.20, 0.62, 0.55, 0.40, 0.50, 1.10, 0.80),
    "t1": (0.25, 0.70, 0.95, 0.60, 0.40, 0.50, 0.65),
    "t1ce": (0.30, 0.65, 0.90, 1.30, 0.45, 0.80, 1.40),
    "t2": (1.10, 0.65, 0.50, 0.40, 0.95, 1.00, 0.75),
}
TUMOUR_CLASS = {"NCR": 1, "ED": 2, "ET": 3}  # network classes


def make_phantoms(output_dir: str, cases: int = 16, size: int = 64, seed: int = 0) -> None:
    """Make phantom patients in BraTS folders, to try the other commands without data.

    The files are phantom_0000/phantom_0000_t1ce.nii.gz and so on. ET is stored as 4.

    Args:
        output_dir: folder to write to.
        cases: number of patients.
        size: voxels along each edge of the cube of 160 mm.
        seed: patient i is drawn from (seed, i), so the first patients do not depend on the number of cases.

    Raises:
        UserError: if cases < 1 or size < 32, or the folder cannot be written to or holds one of these patients.
    """
    if cases < 1 or size < 32:
        raise UserError(f"cases is {cases} and size {size}, expected at least 1 case of at least 32 voxels.")
    check_folder(output_dir, "output_dir")
    folders = [Path(output_dir, f"phantom_{index:04d}") for index in range(cases)]
    if there := [folder for folder in folders if folder.exists() and (not folder.is_dir() or any(folder.iterdir()))]:
        raise UserError(f"output_dir {output_dir} holds {there[0].name} already: remove it, or give another folder.")
    spacing = EXTENT / size
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[1, 3] = spacing * (size - 1)  # as in BraTS, the axes run to the left, to the back, and up
    for index, folder in enumerate(folders):
        images, label = draw_patient(np.random.default_rng([seed, index]), size)
        for name, voxels in (images | {"seg": np.asarray(BRATS_2018, np.uint8)[label]}).items():
            with replacing(folder / f"{folder.name}_{name}.nii.gz") as partial:
                nib.save(nib.Nifti1Image(voxels, affine), partial)
    print(f"{output_dir}: {cases} phantom patients of {size}³ voxels, {spacing:.2f} mm.")


def draw_patient(random: np.random.Generator, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One patient: images by sequence (float32, 0 outside the brain) and the label in network classes (uint8).

    Shapes: (size, size, size) each.
    """
    axes = np.linspace(-1, 1, size)
    grid = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"))  # (3, H, W, D): right-left, front-back, down-up
    tissue = draw_brain(random, grid)
    label = draw_tumour(random, grid, tissue)
    for name, value in TUMOUR_CLASS.items():
        tissue[label == value] = TISSUES.index(name) + 1
    return {sequence: draw_sequence(random, tissue, signal) for sequence, signal in SIGNAL.items()}, label


def smooth_noise(random: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """A smooth random field of mean 0 and standard deviation 1. ``scale`` is its grain, as a share of the edge."""
    field = gaussian_filter(random.standard_normal((size,) * 3), scale * size, mode="wrap")
    return (field - field.mean()) / field.std()


def draw_brain(random: np.random.Generator, grid: np.ndarray) -> np.ndarray:
    """Tissue index + 1 of each voxel, 0 outside the brain: cortex around white matter, and two lateral ventricles."""
    size = grid.shape[1]
    radii = np.array([0.72, 0.86, 0.68]) * random.uniform(0.92, 1.05, 3)
    depth = 1 - np.sqrt(((grid / radii[:, None, None, None]) ** 2).sum(0)) + 0.03 * smooth_noise(random, size, 0.06)
    tissue = np.zeros(depth.shape, np.uint8)
    tissue[depth > 0] = TISSUES.index("grey matter") + 1
    tissue[depth > 0.13 + 0.07 * smooth_noise(random, size, 0.03)] = TISSUES.index("white matter") + 1
    tissue[(depth > 0) & (depth < 0.05 + 0.04 * smooth_noise(random, size, 0.03))] = TISSUES.index("CSF") + 1
    vessels = np.abs(smooth_noise(random, size, 0.05)) + np.abs(smooth_noise(random, size, 0.05)) < 0.15
    tissue[vessels & (depth > 0.02)] = TISSUES.index("vessel") + 1
    opening = random.uniform(0.8, 1.3)
    for side in (-1, 1):
        centre = np.array([side * 0.13, 0.05, 0.1]) + random.uniform(-0.03, 0.03, 3)
        shape = np.array([0.08 * opening, 0.34, 0.16 * opening])
        ventricle = (((grid - centre[:, None, None, None]) / shape[:, None, None, None]) ** 2).sum(0)
        tissue[(ventricle + 0.15 * smooth_noise(random, size, 0.04) < 1) & (depth > 0)] = TISSUES.index("CSF") + 1
    return tissue


def draw_tumour(random: np.random.Generator, grid: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Label in network classes: a necrotic core in an enhancing rim, surrounded by oedema in the white matter."""
    size = grid.shape[1]
    white = np.argwhere((tissue == TISSUES.index("white matter") + 1) & (np.abs(grid[0]) > 0.2))
    centre = grid[(slice(None), *white[random.integers(len(white))])]
    distance = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))
    rim = random.uniform(0.14, 0.26)
    core = rim * random.uniform(0.4, 0.75)
    oedema = rim + random.uniform(0.12, 0.30)
    ragged = distance * (1 + 0.15 * smooth_noise(random, size, 0.05))
    spread = distance * (1 + 0.2 * smooth_noise(random, size, 0.07))
    parenchyma = tissue > TISSUES.index("CSF") + 1
    label = np.zeros(tissue.shape, np.uint8)
    label[(spread < oedema) & (tissue == TISSUES.index("white matter") + 1)] = TUMOUR_CLASS["ED"]
    label[(ragged < rim) & parenchyma] = TUMOUR_CLASS["ET"]
    label[(ragged < core) & parenchyma] = TUMOUR_CLASS["NCR"]
    return label


def draw_sequence(random: np.random.Generator, tissue: np.ndarray, signal: tuple[float, ...]) -> np.ndarray:
    """One sequence: signal by tissue with texture and partial volume, bias field, Rician noise, arbitrary scale.

    Contrast, texture, bias and noise are drawn for each patient and sequence, because scanners differ.
    """
    size = tissue.shape[0]
    levels = np.array([0.0, *signal]) * random.normal(1, 0.03, len(signal) + 1)
    clean = levels[tissue]
    clean = gaussian_filter(clean, 0.5) * (1 + random.uniform(0.04, 0.12) * smooth_noise(random, size, 0.03))
    clean *= np.exp(random.uniform(0.05, 0.25) * smooth_noise(random, size, 0.25))  # bias field
    noise = random.uniform(0.03, 0.09) * random.standard_normal((2, *tissue.shape))
    image = np.hypot(clean + noise[0], noise[1]) * random.uniform(300, 900)
    return np.where(tissue > 0, np.maximum(image, 1), 0).astype(np.float32)
