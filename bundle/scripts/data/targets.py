"""What another program predicted, as a teacher: label maps or probabilities of any tool become class probabilities."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from scripts.data.cases import find_target_maps
from scripts.labels import CLASSES, REGION_NAMES

__all__ = ["ClassProbabilitiesd", "find_targets", "regions_to_classes"]


def regions_to_classes(regions: torch.Tensor) -> torch.Tensor:
    """Class probabilities from those of the nested regions, each of which a network gives by a sigmoid of its own.

    A region is at least as likely as one that lies within it: p(TC) becomes max(p(TC), p(ET)), then p(WT) becomes
    max(p(WT), p(TC)). The classes are the differences, so they sum to 1, and sums of classes give the regions back.

    Shapes: (3, H, W, D) in the order TC, WT, ET -> (4, H, W, D): background, NCR, ED, ET.
    """
    named = dict(zip(REGION_NAMES, regions))
    core = torch.maximum(named["TC"], named["ET"])
    whole = torch.maximum(named["WT"], core)
    return torch.stack([1 - whole, core - named["ET"], whole - core, named["ET"]])


class ClassProbabilitiesd(MapTransform):
    """Label maps and probabilities of other programs become class probabilities.

    Args:
        keys: of the volumes, each (1, H, W, D) with label values, (4, H, W, D) with probabilities of the classes, or
            (3, H, W, D) with those of TC, WT and ET.
        label_values: value in a label map of each network class.
        allow_missing_keys: skip keys that are absent.

    Shapes: -> (4, H, W, D), float32.
    """

    def __init__(
        self, keys: KeysCollection, label_values: Sequence[int] = (0, 1, 2, 3), allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_values = list(label_values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            plain = torch.as_tensor(result[key]).as_subclass(torch.Tensor).float()
            if len(plain) == 1:
                probabilities = torch.cat([plain.round() == value for value in self.label_values]).float()
            else:
                probabilities = plain if len(plain) == len(CLASSES) else regions_to_classes(plain)
            result[key] = convert_to_dst_type(probabilities, result[key], dtype=torch.float32)[0]
        return result
