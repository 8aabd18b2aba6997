"""Handlers of a single step: skip one that is not finite, clip its gradient."""

from __future__ import annotations

import logging

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from scripts.errors import UserError
from scripts.method.terms import DistillationLoss

logger = logging.getLogger(__name__)


class FiniteSteps:
    """Skips each step whose loss or gradient is not finite, on all ranks together, and ends a run that cannot go on.

    The step's gradients are taken away, so torch's optimizers change neither weights nor their own state, and buffers
    (running means of batch normalisation, or of a term) are set back. Of accumulated gradients the whole update is left
    out. A run of finite steps is the same bit for bit with and without this handler. One number a step is shared by the
    ranks: ignite's TerminateOnNan stops one rank, and the others wait for it forever. With a GradScaler, which looks at
    gradients itself, the loss alone is judged.

    Sets ``engine.state.finite`` for the handlers at the end of an iteration, and skipped_steps in
    ``engine.state.metrics``. Attach it before ClipGradient and RunCheckpoint: then the checkpoint stays that of the
    epoch before.

    Raises:
        UserError: after more than ``LIMIT`` such steps in a row, or an epoch of nothing else; says what to change.
    """

    LIMIT = 3

    def __init__(self, loss: DistillationLoss) -> None:
        self.loss = loss
        self.buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.left_out = False
        self.in_a_row = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.remember)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        engine.state.metrics["skipped_steps"] = 0

    def remember(self, engine: Engine) -> None:
        buffers = [*engine.network.buffers(), *self.loss.buffers()]
        self.buffers = [(buffer, buffer.clone()) for buffer in buffers]

    def __call__(self, engine: Engine) -> None:
        finite = torch.isfinite(engine.state.output["loss"].detach())
        gradients = [p.grad for group in engine.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if engine.scaler is None:
            finite = finite & torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        engine.state.finite = not idist.all_reduce((~finite).float()).item()
        if (step_of_epoch(engine) - 1) % engine.accumulation_steps == 0:  # the first of an update
            self.left_out = False
        self.left_out |= not engine.state.finite
        if self.left_out and engine.scaler is None:
            engine.optimizer.zero_grad(set_to_none=True)
        elif self.left_out:
            torch._foreach_mul_(gradients, float("nan"))  # by which the scaler knows that it must not step
        self.in_a_row = 0 if engine.state.finite else self.in_a_row + 1
        if not engine.state.finite:
            self.skip(engine)

    def skip(self, engine: Engine) -> None:
        engine.state.metrics["skipped_steps"] += 1
        for buffer, before in self.buffers:
            buffer.copy_(before)
        terms = ", ".join(name for name, value in self.loss.values.items() if not value.isfinite().all())
        others = " or the loss of another process" if idist.get_world_size() > 1 else ""
        what = f"the loss ({terms})" if terms else f"a gradient{others}"
        logger.warning(
            f"Epoch {engine.state.epoch}, step {step_of_epoch(engine)} is skipped, since {what} is not finite."
        )
        if self.in_a_row > self.LIMIT:
            raise self.error(f"{self.in_a_row} steps in a row, up to epoch {engine.state.epoch}")

    def finish(self, engine: Engine) -> None:
        if engine.state.metrics["skipped_steps"] == engine.state.epoch_length:
            raise self.error(f"every step of epoch {engine.state.epoch}")

    def error(self, steps: str) -> UserError:
        return UserError(
            f"the loss or a gradient was not finite in {steps}: start a new run in another --output_dir with a lower "
            "--learning_rate, with --clip_gradient 1 or with --amp False, or correct a term of your own. If there is a "
            "model.pt, --pretrained FILE starts with this student, the best so far."
        )


class ClipGradient:
    """Scales the gradient of each parameter group down to the norm ``max_norm``, where it is larger, before a step.

    Pascanu et al. 2013, https://arxiv.org/abs/1211.5063. Student and teachers are two groups, so no teacher's gradient
    changes the size of the student's. Of accumulated gradients the sum is clipped.

    Raises:
        ValueError: if max_norm is not positive.
    """

    def __init__(self, max_norm: float) -> None:
        if max_norm <= 0:
            raise ValueError(f"the norm of clipped gradients must be positive, got {max_norm}.")
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        step = step_of_epoch(engine)
        if step % engine.accumulation_steps and step != engine.state.epoch_length:
            return  # the optimizer does not step yet
        if engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        for group in engine.optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], self.max_norm)


def step_of_epoch(engine: Engine) -> int:
    """Number of the present step in its epoch, from 1."""
    return (engine.state.iteration - 1) % engine.state.epoch_length + 1


def was_skipped(engine: Engine) -> bool:
    """Whether FiniteSteps skipped the present step."""
    return not getattr(engine.state, "finite", True)
