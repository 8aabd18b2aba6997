"""A teacher that is what another program predicted before."""

from __future__ import annotations

import torch
from torch import nn

from scripts.labels import CLASSES, TARGETS
from scripts.method.teachers import Teacher


class StoredTeacher(Teacher):
    """A teacher whose class probabilities lie in files (``--targets``), so that a slow one runs once.

    Its logits are log p, with p at least ``floor``. So its soft targets are those of the program that wrote the files,
    whatever the temperature. Where an augmented patch reaches beyond the volume, the background is certain.

    Args:
        floor: least probability; 8-bit files round to 1/255.

    Shapes: {"targets": (B, C, H, W, D)} -> logits (B, C, H, W, D), [].
    """

    def __init__(self, floor: float = 1e-3) -> None:
        super().__init__(LogProbabilities(floor), [])
        self.sequences = [TARGETS]
        self.channels = len(CLASSES)
        self.frozen = True


class LogProbabilities(nn.Module):
    """log p of class probabilities (B, C, H, W, D), the background first; what is missing to 1 is background."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        missing = 1 - probabilities.sum(dim=1, keepdim=True)
        background = probabilities[:, :1] + missing
        return torch.cat([background, probabilities[:, 1:]], dim=1).clamp_min(self.floor).log()
