"""What a network gives: its logits, their shape, and outputs of its inner layers, kept by hooks while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


class LayerOutputs:
    """Runs a network and gives the outputs of named layers too. It is no module: a state dict does not change by it.

    Nothing is kept after a call, even one that ends early: activation checkpointing stops a network by an exception
    as soon as it has computed again what it needs, and what hooks still held would keep a whole graph in memory.

    Args:
        network: the network that runs.
        layers: names of its submodules, in the order in which their outputs are given.

    Raises:
        ValueError: if the network has no such layer.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        self.network = network
        self.layers = list(layers)
        self.outputs: dict[str, torch.Tensor] | None = None  # during a call
        known = dict(network.named_modules())
        for name in self.layers:
            if name not in known:
                near = get_close_matches(name, filter(None, known), n=5, cutoff=0.0)
                raise ValueError(f"{type(network).__name__} has no layer {name}; nearest are {', '.join(near)}.")
            known[name].register_forward_hook(lambda _, __, output, name=name: self.keep(name, output))

    def keep(self, name: str, output: torch.Tensor) -> None:
        if self.outputs is not None:
            self.outputs[name] = output

    def __call__(self, inputs: torch.Tensor) -> tuple[Any, list[torch.Tensor]]:
        """The network's output, and those of its layers."""
        self.outputs = {}
        try:
            return self.network(inputs), [self.outputs[name] for name in self.layers]
        finally:
            self.outputs = None


def logits_list(output: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Logits from full to low resolution, whatever the network returns: a tensor (B, C, H, W, D), a list of such
    (MONAI's SegResNetDS), or deep supervision stacked as (B, K, C, H, W, D) (MONAI's DynUNet).

    Raises:
        ValueError: if there is something else among them, such as the loss of MONAI's SegResNetVAE.
    """
    if isinstance(output, torch.Tensor):
        return list(output.unbind(dim=1)) if output.ndim == 6 else [output]
    kinds = [f"{value.ndim} axes" if isinstance(value, torch.Tensor) else type(value).__name__ for value in output]
    if set(kinds) != {"5 axes"}:
        raise ValueError(f"it gives outputs of {', '.join(kinds)}, expected logits alone, of 5 axes (B, C, H, W, D)")
    return list(output)


def output_shape(network: nn.Module, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the full-resolution logits for an input of this shape."""
    return tuple(logits_list(without_values(network, torch.empty(patch, device="meta")))[0].shape)


def without_values(network: nn.Module, inputs: Any) -> Any:
    """A network's output for inputs on the device "meta", where tensors have shapes alone: no time, no memory."""
    shapes = {
        name: tensor.detach().to("meta")
        for prefix, module in network.named_modules()  # each module once: DynUNet registers its own under two names
        for name, tensor in (*module.named_parameters(prefix, False), *module.named_buffers(prefix, False))
    }
    with torch.no_grad():
        return functional_call(network, shapes, (inputs,), tie_weights=False)
