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

from scripts.evaluation.metrics import bounding_box
from scripts.labels import CLASS_COLOURS, CLASSES, ERROR_COLOURS
from scripts.report.images import read_classes, read_image

__all__ = ["Mosaic", "draw_mosaic", "grey_rgb", "overlay", "scale_brightness"]

STEPS = 20  # positions of the slider
HEIGHT = 150  # pixels of each plane
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
    """Axial, coronal and sagittal slices of one patient side by side, in millimetres, of every panel.

    Args:
        image: the input.
        prediction: its label map.
        truth: the true label map, or None.
        entropy: the map of uncertainty, or None.
        channel: the channel to draw of a 4-D image.
        class_of: network class of each value on disk.
    """
    scan = read_image(image, channel)
    found = read_classes(prediction, class_of)
    real = read_classes(truth, class_of) if truth else None
    layers = draw_layers(scale_brightness(scan), found, real, read_image(entropy) if entropy else None)
    spacing = voxel_sizes(nib.as_closest_canonical(nib.load(image)).affine)
    box = bounding_box(scan > 0 if (scan > 0).any() else np.ones_like(scan, bool))
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


def scale_brightness(scan: np.ndarray) -> np.ndarray:
    """The image scaled to 0..1, from the 0.5th to the 99.5th percentile of voxels above 0; background is 0."""
    inside = scan[scan > 0]
    low, high = np.percentile(inside, [0.5, 99.5]) if inside.size else (0.0, 1.0)
    return np.clip((scan - low) / max(high - low, 1e-9), 0, 1) * (scan > 0)


def slider_path(marked: np.ndarray, shown: np.ndarray) -> tuple[list[tuple[int, ...]], int]:
    """The voxel of each slider position, from corner to corner of the marked box; and the position that shows most of
    ``shown``."""
    ends = [(side.start, side.stop - 1) for side in bounding_box(marked)]
    path = [tuple(round(a + (b - a) * step / (STEPS - 1)) for a, b in ends) for step in range(STEPS)]
    amounts = [sum(int((np.take(shown, at[axis], axis) > 0).sum()) for axis in range(3)) for at in path]
    return path, int(np.argmax(amounts))


def errors(found: np.ndarray, real: np.ndarray) -> np.ndarray:
    """1 where tumour is missed, 2 where it is false, 3 where it has another class, else 0."""
    return np.select([(real > 0) & (found == 0), (real == 0) & (found > 0), real != found], [1, 2, 3], 0)


def grey_rgb(grey: np.ndarray) -> np.ndarray:
    """A grey image in 0..1 as RGB. Shapes: any -> (..., 3) uint8."""
    return np.repeat((grey[..., None] * 255).astype(np.uint8), 3, axis=-1)


def overlay(grey: np.ndarray, classes: np.ndarray, colours: Mapping[int, str]) -> np.ndarray:
    """Colours by class over a grey image in 0..1. Shapes: both any, the same -> (..., 3) uint8."""
    result = grey_rgb(grey)
    for value, colour in colours.items():
        where = classes == value
        result[where] = (1 - OPACITY) * result[where] + OPACITY * 255 * np.array(to_rgb(colour))
    return result


def plane(volume: np.ndarray, axis: int, index: int, spacing: np.ndarray) -> Image.Image:
    """One slice with square pixels in millimetres: the head's top or front is up, the patient's left on the right.

    Shapes: volume (H, W, D, 3), with axes to the right, to the front and up.
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
