"""Three planes of one patient, slice by slice: input, truth, prediction, error, uncertainty."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
from matplotlib.colors import to_rgb
from nibabel.affines import voxel_sizes
from PIL import Image

from scripts.labels import CLASSES

__all__ = ["CLASS_COLOURS", "ERROR_COLOURS", "Mosaic", "draw_mosaic"]

STEPS = 20  # positions of the slider
HEIGHT = 150  # pixels of each plane
CLASS_COLOURS = {1: "#0072B2", 2: "#E69F00", 3: "#CC79A7"}  # NCR, ED, ET; apart for colour-blind readers
ERROR_COLOURS = {1: "#56B4E9", 2: "#D55E00", 3: "#F0E442"}  # missed tumour, false tumour, tumour of another class
OPACITY = 0.6


@dataclass
class Mosaic:
    """WebP images by panel, one for each position of the slider, and the first position to show."""

    panels: dict[str, list[bytes]]
    start: int


def draw_mosaic(
    image: Path,
    prediction: Path,
    truth: Path | None,
    entropy: Path | None,
    channel: int | None,
    class_of: Mapping[int, int],
) -> Mosaic:
    """Axial, coronal and sagittal planes side by side through the tumour, in millimetres, of every panel.

    Args:
        image: the input.
        prediction: its label map.
        truth: the true one, or None.
        entropy: map of uncertainty, or None.
        channel: of a 4-D image, which.
        class_of: network class of each value on disk.
    """
    scan = read(image)
    scan = scan[..., channel or 0] if scan.ndim == 4 else scan
    found = classes_of(read(prediction), class_of)
    real = classes_of(read(truth), class_of) if truth else None
    layers = draw_layers(window(scan), found, real, read(entropy) if entropy else None)
    spacing = voxel_sizes(nib.as_closest_canonical(nib.load(image)).affine)
    box = brain_box(scan)
    marked = found > 0 if real is None else (found > 0) | (real > 0)
    path, start = slider_path(marked if marked.any() else scan > 0, found if real is None else real)

    def sheet(volume: np.ndarray, at: tuple[int, ...]) -> bytes:
        return encode([plane(volume[box], axis, at[axis] - box[axis].start, spacing) for axis in (2, 1, 0)])

    return Mosaic({name: [sheet(volume, at) for at in path] for name, volume in layers.items()}, start)


def draw_layers(
    grey: np.ndarray, found: np.ndarray, real: np.ndarray | None, entropy: np.ndarray | None
) -> dict[str, np.ndarray]:
    """RGB volumes (H, W, D, 3) by panel, of a grey image in 0..1, classes and entropy, each (H, W, D)."""
    layers = {"input": grey_rgb(grey)}
    if real is not None:
        layers["truth"] = overlay(grey, real, CLASS_COLOURS)
    layers["prediction"] = overlay(grey, found, CLASS_COLOURS)
    if real is not None:
        layers["error"] = overlay(grey, errors(found, real), ERROR_COLOURS)
    if entropy is not None:
        heat = np.clip(entropy / np.log(len(CLASSES)), 0, 1)
        layers["uncertainty"] = (matplotlib.colormaps["cividis"](heat)[..., :3] * 255).astype(np.uint8)
    return layers


def window(scan: np.ndarray) -> np.ndarray:
    """Brightness from 0 to 1 between the 0.5th and 99.5th percentile of what is not background."""
    inside = scan[scan > 0]
    low, high = np.percentile(inside, [0.5, 99.5]) if inside.size else (0.0, 1.0)
    return np.clip((scan - low) / max(high - low, 1e-9), 0, 1) * (scan > 0)


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def classes_of(label: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[list(values)] = list(values.values())
    return table[label.astype(np.uint8)]


def brain_box(scan: np.ndarray) -> tuple[slice, ...]:
    inside = scan > 0 if (scan > 0).any() else np.ones_like(scan, bool)
    edges = [np.flatnonzero(inside.any(tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
    return tuple(slice(int(first), int(last) + 1) for first, last in edges)


def slider_path(marked: np.ndarray, shown: np.ndarray) -> tuple[list[tuple[int, ...]], int]:
    """Voxel of each slider position, from corner to corner of what is marked, and where most of ``shown`` is seen."""
    corners = [np.flatnonzero(marked.any(tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
    path = [tuple(round(a + (b - a) * step / (STEPS - 1)) for a, b in corners) for step in range(STEPS)]
    amounts = [sum(int((np.take(shown, at[axis], axis) > 0).sum()) for axis in range(3)) for at in path]
    return path, int(np.argmax(amounts))


def errors(found: np.ndarray, real: np.ndarray) -> np.ndarray:
    """1 where tumour is missed, 2 where there is none, 3 where it is of another class."""
    return np.select([(real > 0) & (found == 0), (real == 0) & (found > 0), real != found], [1, 2, 3], 0)


def grey_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat((grey[..., None] * 255).astype(np.uint8), 3, axis=-1)


def overlay(grey: np.ndarray, classes: np.ndarray, colours: Mapping[int, str]) -> np.ndarray:
    """Colours over the grey image. Shapes: (H, W, D), (H, W, D) -> (H, W, D, 3) uint8."""
    result = grey_rgb(grey)
    for value, colour in colours.items():
        where = classes == value
        result[where] = (1 - OPACITY) * result[where] + OPACITY * 255 * np.array(to_rgb(colour))
    return result


def plane(volume: np.ndarray, axis: int, index: int, spacing: np.ndarray) -> Image.Image:
    """One slice, the head's top or front up, the patient's left on the right, its pixels square in millimetres.

    Shapes: volume (H, W, D, 3), axes to the right, to the front and up.
    """
    index = min(max(index, 0), volume.shape[axis] - 1)
    pixels = np.rot90(np.take(volume, index, axis))  # first axis from left to right
    pixels = pixels if axis == 0 else np.fliplr(pixels)
    across, up = (float(spacing[other]) for other in range(3) if other != axis)
    width = max(round(HEIGHT * pixels.shape[1] * across / (pixels.shape[0] * up)), 1)
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((width, HEIGHT), Image.Resampling.BILINEAR)


def encode(planes: list[Image.Image]) -> bytes:
    """Planes side by side, as WebP."""
    sheet = Image.new("RGB", (sum(item.width for item in planes), HEIGHT))
    left = 0
    for item in planes:
        sheet.paste(item, (left, 0))
        left += item.width
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=72)
    return buffer.getvalue()
