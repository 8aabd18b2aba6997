"""How a volume goes through the network: in windows or whole, mirrored or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer

from scripts.inference.engines import TorchEngine
from scripts.method.resunet import STRIDE

# Flips of a window (C, H, W, D) along no or two axes: they have most of the gain of all eight.
FLIPS = ((), (1, 2), (1, 3), (2, 3))


class VolumeInferer(SlidingWindowInferer):
    """MONAI's SlidingWindowInferer, plus one pass for volumes that fit, test-time mirroring, and bfloat16 anywhere.

    Args:
        whole_volume: volumes of up to this many voxels go through the network in one pass, padded to multiples of 8;
            0 always takes windows.
        mirror: average the probabilities over flips along no or two axes (Simonyan and Zisserman 2015,
            https://arxiv.org/abs/1409.1556): all four of a volume in one pass or one window. Of several windows each
            takes one, and its neighbours, which overlap it, take others. The result is the logarithm of the mean,
            which serves as logits.
        amp: let the network compute in bfloat16; windows are still blended in float32. Not used with ``engine``.
        engine: computes the network in windows; None takes PyTorch, as one pass does, whose size differs by volume.
        options: the options of SlidingWindowInferer.

    Shapes: inputs (B, C, H, W, D) -> logits (B, classes, H, W, D).
    """

    def __init__(
        self,
        whole_volume: int = 0,
        mirror: bool = False,
        amp: bool = False,
        engine: TorchEngine | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.whole_volume = whole_volume
        self.mirror = mirror
        self.whole_engine = TorchEngine(engine.amp if engine else amp)
        self.engine = engine or self.whole_engine
        self.window = options["roi_size"]

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        size = inputs.shape[2:]
        whole = size.numel() <= self.whole_volume
        engine = self.whole_engine if whole else self.engine

        def predict(windows: torch.Tensor) -> torch.Tensor:
            return engine(network, windows, *args, **kwargs)

        self.roi_size: Any = [-(-length // STRIDE) * STRIDE for length in size] if whole else self.window
        if not self.mirror:
            return super().__call__(inputs, predict)
        one_window = all(length <= side for length, side in zip(size, self.roi_size))
        mean = super().__call__(inputs, Mirrored(predict, len(FLIPS) if one_window else 1))
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


class Mirrored:
    """Probabilities of windows, averaged over ``count`` of the four flips; the next window begins with the next flip.

    Shapes: windows (B, C, h, w, d) -> (B, classes, h, w, d).
    """

    def __init__(self, predict: Callable[[torch.Tensor], torch.Tensor], count: int) -> None:
        self.predict, self.count, self.seen = predict, count, 0

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        numbers = range(self.seen, self.seen + len(windows))
        self.seen += len(windows)
        total = torch.zeros(())
        for turn in range(self.count):
            # every fourth window begins elsewhere, so that neighbours along the first axis differ too
            axes = [FLIPS[(number + number // 4 + turn) % len(FLIPS)] for number in numbers]
            logits = self.predict(torch.stack([window.flip(axis) for window, axis in zip(windows, axes)]))
            flipped = torch.stack([window.flip(axis) for window, axis in zip(logits, axes)])
            total = total.to(flipped) + flipped.softmax(dim=1)
        return total / self.count
