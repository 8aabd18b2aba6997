"""Outputs of a network's inner layers, kept by hooks while it runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["LayerOutputs"]


class LayerOutputs:
    """Outputs of named layers in a network's last forward. It is no module, so a state dict does not change by it.

    Args:
        network: the network that runs.
        layers: names of its submodules, in the order in which their outputs are taken.

    Raises:
        ValueError: if the network has no such layer.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        self.layers = list(layers)
        self.outputs: dict[str, torch.Tensor] = {}
        known = dict(network.named_modules())
        for name in self.layers:
            if name not in known:
                raise ValueError(f"feature layer {name!r} is not in {type(network).__name__}; it has {sorted(known)}.")
            known[name].register_forward_hook(lambda _, __, output, name=name: self.outputs.update({name: output}))

    def take(self) -> list[torch.Tensor]:
        """Outputs of the last forward, one per layer; they are not kept afterwards."""
        return [self.outputs.pop(name) for name in self.layers]
