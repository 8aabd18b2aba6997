"""Cooperative deep supervision fusion learning (CDSFL): the teachers' decoder features become one soft target."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from scripts.method.resunet import ChannelGate


class FusionLevel(nn.Module):
    """One resolution: per teacher a channel gate and a 1³ convolution to classes; their sum through one more.

    Shapes: {teacher: (B, C_teacher, h, w, d)} -> logits (B, C, h, w, d).
    """

    def __init__(self, channels: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({name: ChannelGate(width) for name, width in channels.items()})
        self.project = nn.ModuleDict({name: nn.Conv3d(width, num_classes, 1) for name, width in channels.items()})
        self.head = nn.Conv3d(num_classes, num_classes, 1)

    def keep(self, teachers: Sequence[str]) -> None:
        self.attention = nn.ModuleDict({name: self.attention[name] for name in teachers})
        self.project = nn.ModuleDict({name: self.project[name] for name in teachers})

    def forward(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        projected = [self.project[name](self.attention[name](value)) for name, value in features.items()]
        return self.head(torch.stack(projected).sum(dim=0))


class CooperativeFusion(nn.Module):
    """CDSFL of MTCM-KD, doi 10.1016/j.knosys.2024.111854: one fused prediction per feature level.

    Its loss is the only way by which teachers learn from each other; its logits are a soft target of the student.

    Args:
        in_channels: per teacher, the channels of its features at each level, e.g. ``{"flair": [64], "t2": [64]}``.
            One entry is the paper's method (1/2 resolution), two its ablation (1/2 and 1/4). None takes a teacher away.
        num_classes: classes, background included.

    Shapes: {teacher: [(B, C_teacher, h, w, d), one per level]} -> list of logits (B, C, h, w, d), one per level. For
    patients who lack some teachers' sequences, features of the others are enough; without any the list is empty.

    Raises:
        ValueError: if there is no teacher or no level, or the teachers differ in their number of levels.
    """

    def __init__(self, in_channels: Mapping[str, Sequence[int] | None], num_classes: int = 4) -> None:
        super().__init__()
        given = {name: channels for name, channels in in_channels.items() if channels is not None}
        counts = {name: len(channels) for name, channels in given.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(
                f"every teacher in the fusion needs the same number of feature levels (≥ 1), got {counts}."
            )
        self.teachers = list(given)
        levels = [dict(zip(given, channels)) for channels in zip(*given.values())]
        self.levels: Any = nn.ModuleList(FusionLevel(channels, num_classes) for channels in levels)

    def keep(self, teachers: Collection[str]) -> CooperativeFusion | None:
        """This fusion without other teachers than these; None where none of its teachers is left."""
        self.teachers = [name for name in self.teachers if name in teachers]
        for level in self.levels:
            level.keep(self.teachers)
        return self if self.teachers else None

    def forward(self, features: Mapping[str, Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        there = [name for name in self.teachers if name in features]
        return [
            level({name: features[name][index] for name in there})
            for index, level in enumerate(self.levels if there else ())
        ]
