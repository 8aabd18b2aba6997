"""What a term of the loss gives, by name; a term of the user's own that fails is named."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import unwrap
from traceback import extract_tb

import torch
from torch import nn

from scripts.errors import WORKER, UserError, reason_of
from scripts.method.distillation import DistillationOutput

__all__ = ["values_of"]


def values_of(name: str, term: nn.Module, output: DistillationOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
    """The values of a term by name: its own, or one that begins with it (``distil_flair``) where it gives several.

    Raises:
        UserError: names the term and the line if it raises, or what it gives if these are no scalars.
    """
    title = f"loss::terms::{name} ({type(term).__module__}.{type(term).__qualname__})"
    try:
        value = term(output, label)
    except Exception as error:  # of the user's own code
        if isinstance(error, (UserError, torch.OutOfMemoryError)) or WORKER in str(error):
            raise
        own = getattr(getattr(unwrap(type(term).forward), "__code__", None), "co_filename", "")
        lines = [f", in line {line} of {own}" for file, line, *_ in extract_tb(error.__traceback__) if file == own]
        raise UserError(
            f"{title} fails with {type(error).__name__}: {reason_of(error)}{''.join(lines[-1:])}."
        ) from error
    values = {f"{name}_{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}
    for part in values.values():
        if not isinstance(part, torch.Tensor) or part.ndim:
            given = f"a tensor {tuple(part.shape)}" if isinstance(part, torch.Tensor) else repr(part)[:80]
            raise UserError(f"{title} gives {given}, expected a scalar tensor, or a mapping of such by name.")
    return values
