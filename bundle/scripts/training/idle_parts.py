"""The handler that warns of parts of a training that learn from nothing."""

from __future__ import annotations

import logging

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from scripts.method.distillation import DistillationNetwork
from scripts.method.terms import DistillationLoss, Term

logger = logging.getLogger(__name__)


class IdleParts:
    """Warns, at the end of an epoch, of terms that found nothing to compare, and of networks that did not learn.

    A network learns if a weight in the optimizer has a gradient that is not 0. So one mechanism finds weights that the
    optimizer lacks, terms that are missing or weigh 0, and networks that no term reaches. Frozen networks need none.
    Attach it after FiniteSteps, which takes away the gradients of a step that is skipped.

    Args:
        network: student, teachers, fusion and projection.
        loss: the terms.
        epoch: the first in which all terms count.
    """

    def __init__(self, network: DistillationNetwork, loss: DistillationLoss, epoch: int = 1) -> None:
        parts = {f"teachers::{name}": teacher for name, teacher in network.teachers.items()}
        parts |= {"network_def": network.student, "fusion": network.fusion, "projection": network.projection}
        weights = {name: [*part.parameters()] for name, part in parts.items() if part is not None}
        self.waiting = {name: own for name, own in weights.items() if any(weight.requires_grad for weight in own)}
        self.loss = loss
        self.epoch = epoch

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.warn)

    def __call__(self, engine: Engine) -> None:
        if not self.waiting or engine.state.epoch > self.epoch:
            return
        known = {id(weight) for group in engine.optimizer.param_groups for weight in group["params"]}
        for name, own in list(self.waiting.items()):
            gradients = [weight.grad for weight in own if id(weight) in known and weight.grad is not None]
            if any(gradient.any() for gradient in gradients):
                del self.waiting[name]

    def warn(self, engine: Engine) -> None:
        if engine.state.epoch != self.epoch:
            return
        found = set().union(*idist.all_gather(self.loss.found))
        weighty = [name for name, term in self.loss.terms.items() if isinstance(term, Term) and term.weight > 0]
        if idle := [f"loss::terms::{name}" for name in weighty if name not in found]:
            logger.warning(
                f"{', '.join(idle)} found nothing to compare up to epoch {self.epoch}: if the "
                "networks or patients have nothing for them, take them away with null."
            )
        if self.waiting:
            logger.warning(
                f"These parts did not learn up to epoch {self.epoch}: {', '.join(self.waiting)}. They may still teach. "
                "Give each a term of the loss with a weight above 0 and a place in optimizer::params, or freeze or "
                "remove it."
            )
