"""Networks of sigmoid regions (TC, WT, ET) beside networks of softmax classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from scripts.labels import REGION_NAMES
from scripts.method.features import logits_list

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

    With ``conditional`` the outputs are read as p(WT), p(TC within WT) and p(ET within TC), and their products are the
    classes' probabilities: they sum to 1, and each class has a gradient at each voxel. So this is how a network learns.
    Without it they are read as p(WT), p(TC) and p(ET) by ``regions_to_classes``: so were networks trained elsewhere.
    That rule has no gradient where the outputs are not nested, as those of a network with random weights.

    Args:
        network: gives logits of the regions TC, WT and ET, in this order, as the Model Zoo's brats_mri_segmentation.
        conditional: False for a network that was trained elsewhere with a sigmoid of its own for each region.

    Shapes: (B, C, H, W, D) -> logits (B, 4, H, W, D), or a list of such from full to low resolution.

    Raises:
        ValueError: if the network has another number of outputs.
    """

    def __init__(self, network: nn.Module, conditional: bool = True) -> None:
        super().__init__()
        self.network = network
        self.class_logits = products if conditional else differences

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Also takes the weights of the network alone, as another program saves them."""
        if state_dict.keys() & self.network.state_dict().keys():
            state_dict = {f"network.{name}": weight for name, weight in state_dict.items()}
        return super().load_state_dict(state_dict, *args, **kwargs)

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        levels = logits_list(self.network(image))
        if (outputs := levels[0].shape[1]) != len(REGION_NAMES):
            raise ValueError(f"ClassesFromRegions has a network with {outputs} outputs, expected 3 regions")
        levels = [self.class_logits(regions.float().movedim(1, 0)).movedim(0, 1) for regions in levels]
        return levels if len(levels) > 1 else levels[0]


def products(regions: torch.Tensor) -> torch.Tensor:
    """(3, ...) logits of WT, of TC within WT and of ET within TC, ordered as regions -> (4, ...) log-probabilities."""
    inside = {name: F.logsigmoid(logits) for name, logits in zip(REGION_NAMES, regions)}
    outside = {name: F.logsigmoid(-logits) for name, logits in zip(REGION_NAMES, regions)}
    core = inside["WT"] + inside["TC"]
    return torch.stack([outside["WT"], core + outside["ET"], inside["WT"] + outside["TC"], core + inside["ET"]])


def differences(regions: torch.Tensor) -> torch.Tensor:
    """(3, ...) logits of regions, each on its own -> (4, ...) log-probabilities of classes."""
    return regions_to_classes(regions.sigmoid()).clamp_min(LEAST).log()
