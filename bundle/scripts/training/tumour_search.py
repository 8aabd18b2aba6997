"""The handler that asks the teachers where patients without a label have tumour."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset
from monai.inferers import Inferer

from scripts.data.found_tumour import FoundTumour, voxels_by_class
from scripts.method.distillation import DistillationNetwork

logger = logging.getLogger(__name__)


class TumourSearch:
    """Asks all teachers where patients without a label have tumour, for the patches to come.

    They are asked again every few epochs, unless no teacher's weights change.
    The class of a voxel is the one with the largest mean probability over the teachers that see the patient. Ranks
    share the patients. Attach it before EpochSeed, so that it does not change what an epoch draws.

    Args:
        found_tumour: what is told to the patches.
        network: the teachers.
        dataset: all training patients as whole volumes, padded as for patches.
        inferer: how a volume goes through a network.
        start: the first epoch in which to ask; before it teachers know nothing.
        interval: epochs until they are asked again.
    """

    def __init__(
        self,
        found_tumour: FoundTumour,
        network: DistillationNetwork,
        dataset: Dataset,
        inferer: Inferer,
        start: int = 2,
        interval: int = 10,
    ) -> None:
        self.found_tumour = found_tumour
        self.network = network
        self.dataset = dataset
        self.unlabelled = [index for index, entry in enumerate(dataset.data) if "label" not in entry]
        self.inferer = inferer
        self.start = start
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        if self.unlabelled:
            engine.add_event_handler(Events.EPOCH_STARTED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        if engine.state.iteration % engine.state.epoch_length:
            return  # resumed within the epoch: the checkpoint holds what was found at its start
        changing = any(not teacher.frozen or teacher.follows for teacher in self.network.teachers.values())
        since = engine.state.epoch - self.start
        if since < 0 or (since % self.interval if changing else since):
            return
        logger.info(f"Looking for tumour in {len(self.unlabelled)} unlabelled patients, as the teachers see it.")
        teaching = self.network.training
        self.network.eval()
        found = {}
        for index in self.unlabelled[idist.get_rank() :: idist.get_world_size()]:
            patient: Any = self.dataset[index]
            if (classes := self.classes(patient, engine.state.device)) is not None:
                found[patient["case"]] = voxels_by_class(classes.cpu())
        for part in idist.all_gather(found):
            self.found_tumour.add(part)
        self.network.train(teaching)

    def classes(self, patient: Mapping[str, Any], device: torch.device) -> torch.Tensor | None:
        """Classes that the teachers see in a patient, (H, W, D), uint8; None if no teacher sees the patient."""
        images = {name: value for name, value in patient.items() if isinstance(value, torch.Tensor)}
        images |= dict(zip(self.network.student_sequences, patient["image"].split(1)))
        total: Any = 0
        for teacher in self.network.teachers.values():
            if set(teacher.sequences) <= set(images):
                stack = torch.cat([images[name] for name in teacher.sequences])[None].float().to(device)
                total = total + self.inferer(stack, teacher.network).softmax(dim=1)
        return total[0].argmax(dim=0).byte() if isinstance(total, torch.Tensor) else None
