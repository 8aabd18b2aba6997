"""Where teachers see tumour in patients without a label, so that their patches are drawn there too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.transforms.utils import map_classes_to_indices

from scripts.data.transforms import not_zero
from scripts.labels import CLASSES

__all__ = ["FoundTumour", "voxels_by_class"]

MOST = 1000  # voxels of a class that are kept of a patient


class FoundTumour:
    """Voxels of each class by patient, as far as teachers were asked; before that any voxel of the brain may be drawn.

    As a transform it adds ``label_cls_indices``, by which RandCropByLabelClassesd centres a patch, to patients without
    a label. It is no MONAI transform, so caches end before it. Its state travels with checkpoints.
    """

    def __init__(self) -> None:
        self.seen: dict[str, list[torch.Tensor]] = {}

    def add(self, voxels: Mapping[str, list[torch.Tensor]]) -> None:
        """Remember the ``voxels_by_class`` of patients, by case."""
        self.seen |= voxels

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if "label" in data:
            return dict(data)
        known = self.seen.get(data["case"])
        if known is None:
            brain = not_zero(data["image"][0]).flatten().nonzero().flatten()
            known = [brain, *([brain[:0]] * (len(CLASSES) - 1))]
        return dict(data) | {"label_cls_indices": [index.numpy().astype("int64") for index in known]}

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
