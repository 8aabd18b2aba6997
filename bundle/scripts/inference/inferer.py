"""How a volume goes through the network: in windows or whole, mirrored or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer

from scripts.device import autocast
from scripts.method.features import logits_list
from scripts.method.resunet import STRIDE

__all__ = ["VolumeInferer"]

# Four of the eight flips: they have most of the gain for half of the time.
FLIPS = ((), (2, 3), (2, 4), (3, 4))


class VolumeInferer(SlidingWindowInferer):
    """MONAI's SlidingWindowInferer, plus one pass for volumes that fit, test-time mirroring, and bfloat16 anywhere.

    Args:
        whole_volume: volumes of up to this many voxels go through the network in one pass, padded to multiples of 8;
            0 always takes windows.
        mirror: average the probabilities over the volume and its flips along each pair of axes (Simonyan and Zisserman
            2015, https://arxiv.org/abs/1409.1556); the result is the logarithm of the mean, which serves as logits.
        amp: let the network compute in bfloat16; windows are still blended in float32.
        options: the options of SlidingWindowInferer.

    Shapes: inputs (B, C, H, W, D) -> logits (B, classes, H, W, D).
    """

    def __init__(self, whole_volume: int = 0, mirror: bool = False, amp: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.whole_volume = whole_volume
        self.mirror = mirror
        self.amp = amp
        self.window = options["roi_size"]

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        size = inputs.shape[2:]
        whole = size.numel() <= self.whole_volume

        def predict(window: torch.Tensor) -> torch.Tensor:
            with autocast(window.device, self.amp):
                return logits_list(network(window, *args, **kwargs))[0].float()

        self.roi_size: Any = [-(-length // STRIDE) * STRIDE for length in size] if whole else self.window
        if not self.mirror:
            return super().__call__(inputs, predict)
        total = torch.zeros(())
        for axes in FLIPS:
            logits = super().__call__(inputs.flip(axes), predict).flip(axes)
            total = total.to(logits) + logits.softmax(dim=1)
        return (total / len(FLIPS)).clamp_min(torch.finfo(total.dtype).tiny).log()
