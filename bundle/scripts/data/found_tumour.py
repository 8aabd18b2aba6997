"""Which voxels a patch may be centred on: by label, else where teachers see tumour, else anywhere in the brain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms.utils import map_classes_to_indices

from scripts.data.transforms import not_zero
from scripts.labels import CLASSES

INDICES = "label_cls_indices"  # as ClassesToIndicesd calls them
MOST = 1000  # voxels of a class that are kept of a patient


class FoundTumour:
    """Voxels of each class by patient without a label, as far as teachers were asked.

    As a transform it sets ``label_cls_indices``, by which RandCropByLabelClassesd centres a patch: of patients without
    a label, and of all in whom every class that patches are centred on is empty. There it is any voxel of the brain.
    It is no MONAI transform, so caches end before it. Its state travels with checkpoints.

    Args:
        ratios: of patches centred on each class, as RandCropByLabelClassesd has them.
    """

    def __init__(self, ratios: Sequence[float]) -> None:
        self.drawn = [index for index, ratio in enumerate(ratios) if ratio > 0]
        self.seen: dict[str, list[torch.Tensor]] = {}

    def add(self, voxels: Mapping[str, list[torch.Tensor]]) -> None:
        """Remember the ``voxels_by_class`` of patients, by case."""
        self.seen |= voxels

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        known = data[INDICES] if "label" in data else self.seen.get(data["case"], [()] * len(CLASSES))
        if not any(len(known[index]) for index in self.drawn):
            known = [not_zero(data["image"][0]).flatten().nonzero().flatten()] * len(CLASSES)
        return dict(data) | {INDICES: [np.asarray(index, dtype="int64") for index in known]}

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """Indices by case and class."""
        return dict(self.seen)

    def load_state_dict(self, state: Mapping[str, list[torch.Tensor]]) -> None:
        """Take over what an earlier run saw."""
        self.seen = dict(state)


def voxels_by_class(classes: torch.Tensor) -> list[torch.Tensor]:
    """Indices of each class, at most MOST, in the flattened volume (H, W, D), which is padded as for patches."""
    indices = map_classes_to_indices(classes[None], len(CLASSES), max_samples_per_class=MOST)
    return [torch.as_tensor(index).int() for index in indices]
