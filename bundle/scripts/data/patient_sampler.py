"""Which patients an epoch holds, in which order: labelled and unlabelled ones in a chosen proportion."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.data import Dataset, DistributedSampler
from torch.utils.data import Sampler

logger = logging.getLogger(__name__)


class PatientSampler(Sampler[int]):
    """As many patches an epoch as there are training patients, of which a share is of patients without a label.

    One patch at least is of a labelled patient, if there is one. Each patient is drawn as often as any other of its
    kind, give or take one. Seed and epoch alone decide the order.

    Args:
        labelled: whether each patient has a label.
        share: of the patches of unlabelled patients, from 0 to below 1; None is their share of the patients.
        ramp_up: epochs in which the share grows evenly from 0.
        seed: of the order.
        rank: of this process, which gets each world-th patient.
        world: number of processes.
    """

    def __init__(
        self,
        labelled: Sequence[bool],
        share: float | None = None,
        ramp_up: int = 0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.labelled = torch.tensor([index for index, known in enumerate(labelled) if known], dtype=torch.long)
        self.unlabelled = torch.tensor([index for index, known in enumerate(labelled) if not known], dtype=torch.long)
        self.size = len(labelled)
        self.share = len(self.unlabelled) / self.size if share is None else share
        self.ramp_up = ramp_up
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """The epoch, from 1, whose order is next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.world)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed + 1_000_003 * self.epoch) % 2**63)
        grown = min(1.0, (self.epoch - 1) / self.ramp_up) if self.ramp_up else 1.0
        without = min(round(self.size * self.share * grown), self.size - min(1, len(self.labelled)))
        drawn = [
            draw(self.labelled, self.size - without, generator),
            draw(self.unlabelled, without, generator),
        ]
        order = draw(torch.cat(drawn), len(self) * self.world, generator)
        return iter(order[self.rank :: self.world].tolist())


def draw(pool: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """So many of the pool in random order: all of them once, then all again, and so on."""
    rounds = [pool[torch.randperm(len(pool), generator=generator)] for _ in range(0, count, max(1, len(pool)))]
    return torch.cat([pool[:0], *rounds])[:count]


def patient_sampler(
    dataset: Dataset,
    data: Sequence[Mapping[str, Any]],
    share: float | None = None,
    ramp_up: int = 0,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Sampler | None:
    """PatientSampler if any patient lacks a label, else MONAI's DistributedSampler for several processes, else None.

    Args:
        dataset: the training patients.
        data: their entries; those without ``label`` are unlabelled.
        share, ramp_up, seed, rank, world: as for PatientSampler.
    """
    labelled = ["label" in entry for entry in data]
    if not all(labelled):
        return PatientSampler(labelled, share, ramp_up, seed, rank, world)
    if share or ramp_up:
        logger.warning("unlabelled_share and unlabelled_ramp_up have no effect: every training patient has a label.")
    if world == 1:
        return None
    return DistributedSampler(dataset, num_replicas=world, rank=rank, even_divisible=True, shuffle=True, seed=seed)
