"""Weights from a file into a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from scripts.errors import UserError


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """A bare state dict, on the CPU.

    Raises:
        UserError: if the file is missing, or holds anything else or a value that is not finite.
    """
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path} does not exist: train first, or give the path of a state dict.")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways; the user needs the file, not the way
        raise UserError(
            f"checkpoint {path} is not a file of weights ({type(error).__name__}): give a model.pt."
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        kind = (
            f"a dictionary of {', '.join(map(str, list(weights)[:5]))}"
            if isinstance(weights, dict)
            else "no dictionary"
        )
        raise UserError(f"checkpoint {path} is {kind}, expected a state dict: give the model.pt beside it.")
    if spoilt := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise UserError(f"checkpoint {path} holds NaN or infinity, first in {spoilt[0]}: give other weights.")
    return weights


def load_weights(network: nn.Module, path: str) -> None:
    """Load a bare state dict into a network, strictly.

    Raises:
        UserError: if the file is missing, or is not a state dict of this network; names file and remedy.
    """
    weights = read_weights(path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        wanted = network.state_dict()
        differing = [name for name in wanted | weights if shape_of(wanted, name) != shape_of(weights, name)]
        first = [f"{name} is {shape_of(weights, name)}, expected {shape_of(wanted, name)}" for name in differing[:3]]
        raise UserError(
            f"checkpoint {path} does not fit {type(network).__name__} in {len(differing)} layers: give the weights of "
            "this network, or the options that it was trained with (such as --student_widths or --deep_supervision; of "
            "a teacher --teachers::NAME::network::widths). "
            f"First: {'; '.join(first)}."
        ) from error


def shape_of(weights: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...] | str:
    """The shape of one weight, or "absent"."""
    return tuple(weights[name].shape) if name in weights else "absent"
