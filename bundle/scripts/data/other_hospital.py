"""How another hospital's T1ce may look: thick slices, less or more enhancement. For ``other_hospital.yaml``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.transforms import RandomizableTransform
from torch.nn.functional import interpolate


class RandThickSlices(RandomizableTransform):
    """An image as if scanned in thick slices along one axis, and resampled: means over voxels, then linear in between.

    Args:
        prob: probability.
        factors: least and largest thickness of a slice in voxels.

    Shapes: (C, H, W, D) -> the same.
    """

    def __init__(self, prob: float = 0.1, factors: Sequence[float] = (1.5, 3.0)) -> None:
        super().__init__(prob)
        self.factors = factors

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        self.randomize(None)
        if not self._do_transform:
            return img
        axis, factor = self.R.randint(3), self.R.uniform(*self.factors)
        shape = list(img.shape[1:])
        size = [max(round(length / factor), 1) if place == axis else length for place, length in enumerate(shape)]
        thick = interpolate(img[None].float(), size=size, mode="area")
        return interpolate(thick, size=shape, mode="trilinear")[0].to(img.dtype)


class RandEnhancement(RandomizableTransform):
    """Bright tissue nearer to the rest or farther from it, as with less or more contrast agent.

    Values above ``start`` get ``start + factor * (value - start)``.

    Args:
        prob: probability.
        factors: least and largest factor.
        start: in standard deviations above the brain's mean, since images are normalised.

    Shapes: any -> the same.
    """

    def __init__(self, prob: float = 0.1, factors: Sequence[float] = (0.3, 1.5), start: float = 1.0) -> None:
        super().__init__(prob)
        self.factors = factors
        self.start = start

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        self.randomize(None)
        if not self._do_transform:
            return img
        above = (img - self.start).clamp(min=0)
        return img + (self.R.uniform(*self.factors) - 1) * above
