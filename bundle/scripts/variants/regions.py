"""Networks of sigmoid regions (TC, WT, ET) beside networks of softmax classes."""

from __future__ import annotations

import torch
from torch import nn

from scripts.labels import REGION_NAMES
from scripts.method.features import logits_list

__all__ = ["ClassesFromRegions", "regions_to_classes"]

LEAST = 1e-6  # probability of a class, whose logarithm is taken


def regions_to_classes(regions: torch.Tensor) -> torch.Tensor:
    """Class probabilities from those of the nested regions, each of which a network gives by a sigmoid of its own.

    A region is at least as likely as one that lies within it: p(TC) becomes max(p(TC), p(ET)), then p(WT) becomes
    max(p(WT), p(TC)). The classes are the differences, so they sum to 1, and sums of classes give the regions back.

    Shapes: (3, ...) in the order TC, WT, ET -> (4, ...): background, NCR, ED, ET.
    """
    named = dict(zip(REGION_NAMES, regions))
    core = torch.maximum(named["TC"], named["ET"])
    whole = torch.maximum(named["WT"], core)
    return torch.stack([1 - whole, core - named["ET"], whole - core, named["ET"]])


class ClassesFromRegions(nn.Module):
    """Lets a network with three sigmoid outputs be a student or a teacher: it gives the classes' log-probabilities.

    Args:
        network: gives logits of the regions TC, WT and ET, in this order, as the Model Zoo's brats_mri_segmentation.

    Shapes: (B, C, H, W, D) -> logits (B, 4, H, W, D), or a list of such from full to low resolution.

    Raises:
        ValueError: if the network has another number of outputs.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        levels = [class_logits(regions) for regions in logits_list(self.network(image))]
        return levels if len(levels) > 1 else levels[0]


def class_logits(regions: torch.Tensor) -> torch.Tensor:
    """(B, 3, h, w, d) logits of regions -> (B, 4, h, w, d) logarithms of class probabilities."""
    if regions.shape[1] != len(REGION_NAMES):
        raise ValueError(f"ClassesFromRegions has a network with {regions.shape[1]} outputs, expected 3 regions")
    classes = regions_to_classes(regions.float().sigmoid().movedim(1, 0)).movedim(0, 1)
    return classes.clamp_min(LEAST).log()
