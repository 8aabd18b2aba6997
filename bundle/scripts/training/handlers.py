"""Ignite handlers of a distillation run."""

from __future__ import annotations

import logging
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.data.utils import set_rnd
from monai.transforms import Compose

from scripts.device import seed_everything
from scripts.errors import UserError
from scripts.method.confidence import TeacherConfidence
from scripts.method.terms import DistillationLoss, StudentLabels
from scripts.training.steps import was_skipped

logger = logging.getLogger(__name__)


class EpochSeed:
    """Seeds every source of randomness from (seed, epoch, rank) at the start of each epoch.

    An epoch then does not depend on earlier epochs, so a resumed run with as many loading processes repeats it
    exactly. Ranks draw different patches and augmentations. ``deterministic`` is that of ``seed_everything``.
    """

    def __init__(
        self, seed: int, loader: DataLoader, augmentation: Compose | None = None, deterministic: bool = True
    ) -> None:
        self.seed = seed
        self.loader = loader
        self.augmentation = augmentation
        self.deterministic = deterministic

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = (self.seed + 1_000_003 * engine.state.epoch + 7919 * idist.get_rank()) % 2**32
        seed_everything(seed, self.deterministic)
        set_rnd([self.loader.dataset, self.augmentation], seed)
        if hasattr(self.loader.sampler, "set_epoch"):
            self.loader.sampler.set_epoch(engine.state.epoch)


class WarmUp:
    """Switches distillation on after the first ``epochs`` epochs."""

    def __init__(self, loss: DistillationLoss, epochs: int = 1) -> None:
        if not hasattr(loss, "terms"):
            raise UserError(
                f"loss is a {type(loss).__name__}, expected a DistillationLoss: add terms (docs/extend.md)."
            )
        self.loss = loss
        self.epochs = epochs

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.warn)
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        self.loss.distilling = engine.state.epoch > self.epochs

    def warn(self, engine: Engine) -> None:
        """Say that distillation never begins, where terms of the loss wait for it."""
        taught = [term for term in self.loss.terms.values() if not isinstance(term, StudentLabels)]
        waiting = any(term.weight and not term.warm_up_weight for term in taught)
        if waiting and engine.state.max_epochs <= self.epochs:
            logger.warning(
                f"epochs is {engine.state.max_epochs}, and distillation_warm_up {self.epochs}: the student learns from "
                "labels alone to the end. Give more epochs, or a shorter warm-up."
            )


class ConfidenceUpdate:
    """Feeds TeacherConfidence with every training batch, and updates its weights after each epoch over all ranks.

    Sets weight/TEACHER (used in the next epoch) and dice/TEACHER, where it was measured, in ``engine.state.metrics``.
    """

    def __init__(self, confidence: TeacherConfidence) -> None:
        self.confidence = confidence

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.update)

    def __call__(self, engine: Engine) -> None:
        if was_skipped(engine):
            return
        output, label = engine.state.output["pred"], engine.state.output["label"]
        if not output.parts:
            self.confidence.accumulate(output.teachers, label)
        for part in output.parts:
            if part.labelled:
                self.confidence.accumulate(part.output.teachers, label[part.samples])

    def update(self, engine: Engine) -> None:
        dice, metrics = self.confidence.update(reduce=idist.all_reduce), engine.state.metrics
        metrics |= {f"weight/{name}": weight.item() for name, weight in self.confidence.as_dict().items()}
        for name in self.confidence.teachers:
            metrics.pop(f"dice/{name}", None)
        metrics |= {f"dice/{name}": value for name, value in dice.items()}


class LossTerms:
    """Epoch means of every named loss term and of their sum, the loss, as loss/NAME in ``engine.state.metrics``.

    Means are over all ranks. Where patients lack something, a term's mean is over the steps that have it, so that its
    figure does not depend on how many patients lack it. loss/total is over all steps: it is what is optimised.
    """

    def __init__(self, loss: DistillationLoss) -> None:
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        engine.state.term_sums, engine.state.term_steps = {}, {}  # where RunCheckpoint finds them
        for name in [name for name in engine.state.metrics if name.startswith("loss/")]:
            del engine.state.metrics[name]  # a term that this epoch lacks has no value

    def __call__(self, engine: Engine) -> None:
        if was_skipped(engine):
            return
        sums, steps = engine.state.term_sums, engine.state.term_steps
        for name, term in (self.loss.values | {"total": engine.state.output["loss"].detach()}).items():
            sums[name] = sums.get(name, 0.0) + term
            steps[name] = steps.get(name, 0) + 1

    def finish(self, engine: Engine) -> None:
        names, steps, world = list(engine.state.term_sums), engine.state.term_steps, idist.get_world_size()
        sums = idist.all_reduce(torch.stack(list(engine.state.term_sums.values())))
        means = sums / (world * sums.new_tensor([steps[name] for name in names]))
        engine.state.metrics |= {f"loss/{name}": mean.item() for name, mean in zip(names, means)}


class LossAlone:
    """Reduces a step's output to the loss, in the form that MONAI's handlers expect, and frees the networks' outputs.

    Attach it after all handlers that read the outputs. The handlers of MONAI's ``--tracking`` come after it.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        engine.state.output = [{"loss": engine.state.output["loss"].detach()}]


class FollowedMetric:
    """The engine's key metric, for a learning rate scheduler that follows it; 1 minus it if that waits for a fall."""

    def __init__(self, lr_scheduler: Any) -> None:
        self.falls = getattr(lr_scheduler, "mode", "max") == "min"

    def __call__(self, engine: Engine) -> float:
        metric = engine.state.metrics[engine.state.key_metric_name]
        return 1 - metric if self.falls else metric
