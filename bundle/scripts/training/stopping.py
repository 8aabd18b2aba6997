"""End a training in good order when the system or the user asks for it."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, EventEnum, Events

from scripts.errors import WORKER, WORKER_ENDED, UserError
from scripts.training.steps import step_of_epoch

logger = logging.getLogger(__name__)


class StopEvents(EventEnum):
    """STOPPED: the run ends after this step, in the middle of an epoch; RunCheckpoint saves it."""

    STOPPED = "stopped"


def without_workers(error: Any) -> None:
    """Python's hook for errors in destructors. Hides those of a killed loading process, which is reported later."""
    if WORKER not in str(error.exc_value):
        sys.__unraisablehook__(error)


class StopOnSignal:
    """Ends a run after the step in which SIGTERM or Ctrl-C arrived, saved, with exit code 143 or 130.

    Accumulated gradients are applied first. Where several processes train, or in a validation, ``checkpoint.pt`` holds
    the end of the epoch before. In each case ``--resume True`` gives the result of a run that was never stopped.
    A second Ctrl-C, after two seconds, ends the run at once. Attach it last.

    Args:
        evaluator: the validation, which is stopped as well.
    """

    def __init__(self, evaluator: Engine) -> None:
        self.evaluator = evaluator
        self.number = 0
        self.since = 0.0
        self.before: dict[int, Any] = {}

    def attach(self, engine: Engine) -> None:
        self.trainer = engine
        engine.register_events(*StopEvents)
        engine.add_event_handler(Events.STARTED, self.listen)
        engine.add_event_handler(Events.COMPLETED, self.listen_no_more)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.stop_in_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.stop_after_epoch)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self.stop_in_validation)
        for part in (engine, self.evaluator):
            part.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def listen(self, engine: Engine) -> None:
        sys.unraisablehook = without_workers
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self.before = {number: signal.signal(number, self.receive) for number in (signal.SIGTERM, signal.SIGINT)}

    def listen_no_more(self, engine: Engine) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() - self.since > 2:
            raise KeyboardInterrupt
        if not self.number:
            self.number, self.since = number, time.monotonic()

    def stop_in_epoch(self, engine: Engine) -> None:
        step, length, epoch = step_of_epoch(engine), engine.state.epoch_length, engine.state.epoch
        if not self.number or step == length:  # else the epoch is ended
            return
        if idist.get_world_size() > 1:  # each has a state of its own, and they may be in different steps
            self.stop(f"after step {step} of {length} of epoch {epoch}", epoch, f"{step} step{'s'[: step != 1]}")
        if step % getattr(engine, "accumulation_steps", 1) == 0:
            engine.fire_event(StopEvents.STOPPED)
            self.stop(f"after step {step} of {length} of epoch {epoch}")

    def stop_in_validation(self, evaluator: Engine) -> None:
        if self.number:
            epoch = evaluator.state.epoch
            self.stop(f"in the validation of epoch {epoch}", epoch, "this epoch")

    def stop_after_epoch(self, engine: Engine) -> None:
        if self.number:
            self.stop(f"after epoch {engine.state.epoch}")

    def stop(self, where: str, epoch: int = 0, repeated: str = "nothing") -> None:
        """End the run. ``epoch`` is the one that is repeated, if it is."""
        held = f"the end of epoch {epoch - 1}" if epoch else "this state"
        logger.warning(
            f"Stopped {where}. checkpoint.pt holds {held}: --resume True repeats {repeated}, and ends with the result "
            "of an uninterrupted run."
        )
        for part in (self.trainer, self.evaluator):
            part.logger.disabled = True  # Ignite would call this an error
        raise SystemExit(128 + self.number)

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Raise the error again. If it follows from a signal, end by the signal: Ctrl-C ends loading processes, too."""
        self.listen_no_more(engine)
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else PyTorch raises again for the same loading process
        if self.number and isinstance(error, RuntimeError):
            raise SystemExit(128 + self.number) from error
        if isinstance(error, (ConnectionError, EOFError)):  # a loading process ended while it handed over a batch
            raise UserError(WORKER_ENDED) from error
        raise error
