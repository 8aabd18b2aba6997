"""What a term of the loss gives, by name; a term that fails, or an output that no term uses, is named."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from inspect import unwrap
from traceback import extract_tb
from typing import Any

import torch
from torch import nn

from scripts.errors import WORKER, UserError, reason_of
from scripts.method.distillation import DistillationOutput


def values_of(
    name: str, term: nn.Module, output: DistillationOutput, label: torch.Tensor, taken: Collection[str]
) -> dict[str, torch.Tensor]:
    """The values of a term by name: its own, or one that begins with it (``distil_flair``) where it gives several.

    Raises:
        UserError: names the term and the line if it raises, what it gives if these are no scalars, or a name of a value
            that another term has (``taken``).
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
    if double := sorted(values.keys() & {*taken, "total"}):
        raise UserError(f"{title} gives a value named {double[0]}, which is another value's name: rename the term.")
    return values


def check_levels(terms: Iterable[Any], output: DistillationOutput) -> None:
    """Raises ValueError if the student or the fusion has an output at a lower resolution that no term uses."""
    terms = list(terms)
    for name, levels in {"student": len(output.student) - 1, "fusion": len(output.fused)}.items():
        used = {getattr(term, "level", 0) for term in terms if name in term.level_of}
        if unused := sorted({*range(1, levels + 1)} - used):
            raise ValueError(
                f"the {name} has {levels} lower-resolution outputs, but no term of the loss has level {unused[0]}: "
                "add terms, as two_levels.yaml does, or take the output away (deep_supervision)."
            )
