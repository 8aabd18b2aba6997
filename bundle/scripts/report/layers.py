"""One patient as volumes that lie over each other: the image, and label maps, errors and uncertainty as layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from scripts.data.brain_mask import marked
from scripts.errors import UserError
from scripts.evaluation.meaning import Meaning
from scripts.evaluation.metrics import bounding_box
from scripts.labels import CLASSES, REGIONS
from scripts.report.images import read_classes, read_image


class LabelMap(NamedTuple):
    """A file of classes, and what the values in it mean."""

    path: Path
    meaning: Meaning

    def classes(self, shape: tuple[int, ...]) -> np.ndarray:
        """Network classes (H, W, D). Raises UserError if they cannot be read, or do not have the shape of the image."""
        return fitting(read_classes(self.path, self.meaning), self.path, shape)


class Layer(NamedTuple):
    """A volume (H, W, D) over the image. Its kind says what the values are:

    classes: network classes; errors: see ``errors``; uncertainty: entropy as a share of its largest value.
    """

    title: str
    kind: str
    voxels: np.ndarray


@dataclass
class Patient:
    """The box around a patient's brain, with axes to the right, to the front and up.

    Args:
        name: of the case.
        image: the whole image, (H, W, D).
        box: around the brain.
        affine: from voxels of the image to mm.
        layers: over the image, each (H, W, D) of the box.
    """

    name: str
    image: np.ndarray
    box: tuple[slice, ...]
    affine: np.ndarray
    layers: list[Layer]

    @property
    def grey(self) -> np.ndarray:
        """The image in the box, from 0 (background) to 1."""
        return scale_brightness(self.image)[self.box]

    @property
    def spacing(self) -> np.ndarray:
        """Size of a voxel in mm, (3,)."""
        return voxel_sizes(self.affine)

    @property
    def box_affine(self) -> np.ndarray:
        """From voxels of the box to mm."""
        corner = np.eye(4)
        corner[:3, 3] = [side.start for side in self.box]
        return self.affine @ corner

    @property
    def centre(self) -> list[int]:
        """The voxel of the box where each plane shows most tumour of all label maps; without tumour, most brain."""
        maps = [layer.voxels > 0 for layer in self.layers if layer.kind == "classes"]
        tumour = np.sum(maps, axis=0) if np.any(maps) else self.image[self.box] != 0
        return [int(tumour.sum(tuple(other for other in range(3) if other != axis)).argmax()) for axis in range(3)]

    def volumes_ml(self, title: str) -> dict[str, float]:
        """Volume of each region in a layer of classes."""
        voxels = next(layer.voxels for layer in self.layers if layer.title == title)
        counts = np.bincount(voxels.ravel(), minlength=len(CLASSES))
        return {name: float(counts[list(classes)].sum() * np.prod(self.spacing) / 1000) for name, classes in REGIONS}


def read_patient(
    case: Mapping[str, Any], predictions: Mapping[str, LabelMap], truth: LabelMap | None, entropy: Path | None = None
) -> Patient:
    """A patient of a run, with the layers that there are.

    Args:
        case: of the run's record: its name, image, channels and brain mask.
        predictions: label maps by title.
        truth: the true label map.
        entropy: the map of uncertainty.

    Raises:
        UserError: if a file cannot be read, or does not have the image's shape.
    """
    channels = case.get("channels", {}).get("image")
    path = Path(case["image"])
    image = read_image(path, channels[0] if channels else None)
    if mask := case.get("brain_mask"):  # the network did not see what is outside
        image = np.where(marked(fitting(read_image(Path(mask)), Path(mask), image.shape)), image, 0)
    real = truth.classes(image.shape) if truth else None
    found = {title: item.classes(image.shape) for title, item in predictions.items()}
    layers = [Layer(title, "classes", voxels) for title, voxels in found.items()]
    if real is not None:
        layers.append(Layer("Truth", "classes", real))
        wrong = {title.replace("Prediction", "Error"): errors(voxels, real) for title, voxels in found.items()}
        layers += [Layer(title, "errors", voxels) for title, voxels in wrong.items()]
    if entropy:
        share = np.clip(fitting(read_image(entropy), entropy, image.shape) / np.log(len(CLASSES)), 0, 1)
        layers.append(Layer("Uncertainty", "uncertainty", share))
    shown = np.logical_or.reduce([image != 0, *(layer.voxels > 0 for layer in layers if layer.kind == "classes")])
    box = bounding_box(shown if shown.any() else np.ones_like(shown))
    affine = nib.as_closest_canonical(nib.load(path)).affine
    return Patient(case["case"], image, box, affine, [layer._replace(voxels=layer.voxels[box]) for layer in layers])


def fitting(voxels: np.ndarray, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The voxels of a map. Raises UserError if they do not have the shape of the image."""
    if voxels.shape != shape:
        raise UserError(f"{path} has shape {voxels.shape}, expected {shape} as its image: predict it again.")
    return voxels


def errors(found: np.ndarray, real: np.ndarray) -> np.ndarray:
    """1 where tumour is missed, 2 where it is false, 3 where it has another class, else 0."""
    kinds = np.select([(real > 0) & (found == 0), (real == 0) & (found > 0), real != found], [1, 2, 3], 0)
    return kinds.astype(np.uint8)


def scale_brightness(scan: np.ndarray) -> np.ndarray:
    """The image scaled to 0..1, from the 0.5th to the 99.5th percentile of voxels that are not 0; background is 0."""
    inside = scan[scan != 0]
    low, high = np.percentile(inside, [0.5, 99.5]) if inside.size else (0.0, 1.0)
    return np.clip((scan - low) / max(high - low, 1e-9), 0, 1) * (scan != 0)
