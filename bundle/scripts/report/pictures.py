"""Still pictures of one patient: three planes of the image and of each layer, where most of the tumour is."""

from __future__ import annotations

import io
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from scripts.labels import CLASS_COLOURS, ERROR_COLOURS
from scripts.report.layers import Layer, Patient

HEIGHT = 150  # pixels of each plane
OPACITY = 0.6
COLOURS = {"classes": CLASS_COLOURS, "errors": ERROR_COLOURS}


def draw_pictures(patient: Patient) -> dict[str, bytes]:
    """WebP images of a patient by title: axial, coronal and sagittal slice side by side, in millimetres."""
    grey, at = patient.grey, patient.centre
    planes: dict[str, list[Image.Image]] = {"Input": [], **{layer.title: [] for layer in patient.layers}}
    for axis in (2, 1, 0):
        thin = [at[axis]]  # colours of a whole volume would take a GB
        behind = grey.take(thin, axis)
        planes["Input"].append(plane(grey_rgb(behind), axis, 0, patient.spacing))
        for layer in patient.layers:
            pixels = draw_layer(behind, layer._replace(voxels=layer.voxels.take(thin, axis)))
            planes[layer.title].append(plane(pixels, axis, 0, patient.spacing))
    return {title: encode(drawn) for title, drawn in planes.items()}


def draw_layer(grey: np.ndarray, layer: Layer) -> np.ndarray:
    """RGB volume (H, W, D, 3) of a layer; classes and errors lie over the grey image."""
    if layer.kind in COLOURS:
        return overlay(grey, layer.voxels, COLOURS[layer.kind])
    return (matplotlib.colormaps["cividis"](layer.voxels)[..., :3] * 255).astype(np.uint8)


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


def plane(volume: np.ndarray, axis: int, index: int, spacing: np.ndarray, height: int = HEIGHT) -> Image.Image:
    """One slice with square pixels in millimetres: the head's top or front is up, the patient's left on the right.

    Shapes: volume (H, W, D, 3), with axes to the right, to the front and up.
    """
    pixels = np.rot90(np.take(volume, index, axis))  # first axis from left to right
    pixels = pixels if axis == 0 else np.fliplr(pixels)
    across, up = (float(spacing[other]) for other in range(3) if other != axis)
    width = max(round(height * pixels.shape[1] * across / (pixels.shape[0] * up)), 1)
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)


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
