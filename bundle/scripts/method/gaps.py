"""What patients lack: a batch may hold samples without some sequences, or without a label.

A gap is filled with NaN, or 255 in a label. A loss that uses an image's gap by mistake becomes NaN, so that the step is
skipped; a loss that uses a label's gap as classes usually fails, since there is no class 255.
Networks and losses get the numbers of the samples that have each key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

NO_LABEL = 255  # in each voxel of a label that is not there; in each voxel of an image it is NaN

Samples = Mapping[str, Collection[int]]  # numbers of the samples of a batch that have a key, by key


def fill(like: torch.Tensor) -> torch.Tensor:
    """A volume that stands for one that is not there, of this shape and type."""
    return torch.full_like(like, torch.nan if like.is_floating_point() else NO_LABEL)


def is_gap(volume: torch.Tensor) -> bool:
    """Whether a volume stands for one that is not there."""
    value = volume.flatten()[0]
    return bool(value.isnan()) if volume.is_floating_point() else int(value) == NO_LABEL


def groups(samples: Samples, names: Sequence[str], size: int) -> dict[tuple[str, ...], list[int]]:
    """Samples of a batch that have the same: {names that they have: their numbers}.

    Args:
        samples: who has what. A name that is not in it is one that all have.
        names: what to tell samples apart by.
        size: of the batch.
    """
    found: dict[tuple[str, ...], list[int]] = {}
    for number in range(size):
        own = tuple(name for name in names if number in samples.get(name, range(size)))
        found.setdefault(own, []).append(number)
    return found
