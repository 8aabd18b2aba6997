"""A teacher that is the moving mean of another network's weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from scripts.method.teachers import Teacher


class MovingMeanTeacher(Teacher):
    """mean ← decay · mean + (1 - decay) · weights of a network that learns, once a training forward.

    Tarvainen and Valpola 2017 (mean teacher), https://arxiv.org/abs/1703.01780. The student's own mean in YAML:

        teachers::own:
          _target_: scripts.variants.moving_mean.MovingMeanTeacher
          network: "@network_def"
          sequences: "@student_sequence"

    It starts as a copy, gets no gradient and stays in eval mode, so it has no term of its own in the loss. Processes
    agree, since their weights do.

    Args:
        network: what is followed; it learns elsewhere, as student or as another teacher's network.
        sequences: as of Teacher, those that the network sees.
        feature_layers: as of Teacher, of the mean.
        decay: share of the mean that stays.

    Shapes: as Teacher.

    Raises:
        ValueError: if decay is not from 0 to below 1, and as Teacher.
    """

    follows = True

    def __init__(
        self,
        network: nn.Module,
        sequences: str | Sequence[str],
        feature_layers: Sequence[str] = (),
        decay: float = 0.99,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be from 0 to below 1, got {decay}.")
        mean = copy.deepcopy(network).requires_grad_(False)
        for module in mean.modules():
            module._forward_hooks.clear()  # a copied hook would give the mean's features for those of the network
        super().__init__(mean, sequences, feature_layers)
        self.decay = decay
        self.followed = [network]  # in a list, which hides it: it is a submodule elsewhere
        self.frozen = True
        self.eval()

    @torch.no_grad()
    def follow(self) -> None:
        (network,) = self.followed
        for mean, weight in zip(self.network.parameters(), network.parameters()):
            mean.lerp_(weight, 1 - self.decay)
        for kept, buffer in zip(self.network.buffers(), network.buffers()):
            kept.copy_(buffer)
