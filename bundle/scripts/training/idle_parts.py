"""The handler that warns of parts of a training that learn from nothing."""

from __future__ import annotations

import logging

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from scripts.errors import UserError
from scripts.method.distillation import DistillationNetwork
from scripts.method.terms import DistillationLoss, TeacherLabels
from scripts.training.steps import was_skipped

logger = logging.getLogger(__name__)


class IdleParts:
    """Warns, at the end of an epoch, of terms that found nothing to compare, and of networks that did not learn.

    A network learns if a weight in the optimizer has a gradient that is not 0. So one mechanism finds weights that the
    optimizer lacks (as those of a term itself), terms that are missing or weigh 0, and networks that no term reaches.
    Frozen networks need none. Attach it after FiniteSteps, which takes away the gradients of a step that is skipped.

    Args:
        network: student, teachers, fusion and projection.
        loss: the terms.
        epoch: the first in which all terms count.

    Raises:
        UserError: in the first step of several processes, for a network with weights that no term uses, since
            DistributedDataParallel would fail in the second.
    """

    def __init__(self, network: DistillationNetwork, loss: DistillationLoss, epoch: int = 1) -> None:
        parts = {f"teachers::{name}": teacher for name, teacher in network.teachers.items()}
        parts |= {"network_def": network.student, "fusion": network.fusion, "projection": network.projection}
        self.terms = {f"loss::terms::{name}": term for name, term in loss.terms.items()}
        weights = {name: [*part.parameters()] for name, part in (parts | self.terms).items() if part is not None}
        self.waiting = {name: own for name, own in weights.items() if any(weight.requires_grad for weight in own)}
        self.teachers_learn = any(name.startswith("teachers::") for name in self.waiting)
        self.loss = loss
        self.epoch = epoch

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.warn)

    def __call__(self, engine: Engine) -> None:
        if not self.waiting or engine.state.epoch > self.epoch:
            return
        if not getattr(engine.network, "find_unused_parameters", True) and not was_skipped(engine):
            self.check_used()
        known = {id(weight) for group in engine.optimizer.param_groups for weight in group["params"]}
        for name, own in list(self.waiting.items()):
            gradients = [weight.grad for weight in own if id(weight) in known and weight.grad is not None]
            if any(gradient.any() for gradient in gradients):
                del self.waiting[name]

    def check_used(self) -> None:
        """Raise UserError for networks that learn but have weights without a gradient, even one of 0."""
        networks = {name: own for name, own in self.waiting.items() if name not in self.terms}
        if unused := [n for n, own in networks.items() if any(w.requires_grad and w.grad is None for w in own)]:
            raise UserError(
                f"No term of the loss uses some weights of {', '.join(unused)}, and several processes need all: "
                "give each a term, freeze it or take it away (teachers::NAME::_disabled_: true). If only some heads "
                "have no term, set ddp::find_unused_parameters: true."
            )

    def warn(self, engine: Engine) -> None:
        """Name, once, the terms and the networks."""
        if engine.state.epoch != self.epoch:
            return
        found = set().union(*idist.all_gather(self.loss.found))
        needed = [  # frozen teachers need no labels
            name
            for name, term in self.loss.terms.items()
            if term.weight and (self.teachers_learn or not isinstance(term, TeacherLabels))
        ]
        if idle := [f"loss::terms::{name}" for name in needed if name not in found]:
            logger.warning(
                f"{', '.join(idle)} found nothing to compare up to epoch {self.epoch}: if the "
                "networks or patients have nothing for them, take them away with null."
            )
        if self.waiting:
            inner = self.waiting.keys() & self.terms  # terms with layers
            logger.warning(
                f"These parts did not learn up to epoch {self.epoch}: {', '.join(self.waiting)}. They may still teach. "
                "Give each a term of the loss with a weight above 0 and a place in optimizer::params, or freeze or "
                f"remove it.{' The layers of a term learn only as distillation::projection.' if inner else ''}"
            )
