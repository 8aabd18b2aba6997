"""End a training in good order when the system or the user asks for it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

from scripts.training.handlers import step_of_epoch

__all__ = ["StopOnSignal"]

logger = logging.getLogger(__name__)


class StopOnSignal:
    """Ends a run after the step in which SIGTERM or Ctrl-C arrived, with exit code 143 or 130.

    After the last step of an epoch the epoch is ended first, and saved. Otherwise ``checkpoint.pt`` holds the end of
    the epoch before; an epoch is repeated exactly, so ``--resume True`` gives the result of a run that was never
    stopped. A second Ctrl-C, after two seconds, ends the run at once. Attach it last.

    Args:
        evaluator: the validation, which is stopped as well.
    """

    def __init__(self, evaluator: Engine) -> None:
        self.evaluator = evaluator
        self.number = 0
        self.since = 0.0
        self.before: dict[int, Any] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.listen)
        engine.add_event_handler(Events.COMPLETED, self.listen_no_more)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.stop_in_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.stop_after_epoch)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self.stop_in_validation)
        for part in (engine, self.evaluator):
            part.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def listen(self, engine: Engine) -> None:
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
        step, length = step_of_epoch(engine), engine.state.epoch_length
        if step < length:
            self.stop(engine, f"after step {step} of {length}", f"repeats {step} step{'s'[: step != 1]}")

    def stop_in_validation(self, evaluator: Engine) -> None:
        self.stop(evaluator, "in the validation", "repeats the epoch")

    def stop(self, engine: Engine, where: str, repeated: str) -> None:
        """End the run, if a signal arrived, before the end of an epoch."""
        if self.number:
            epoch = engine.state.epoch
            logger.warning(
                f"Stopped in epoch {epoch} {where}. checkpoint.pt holds the end of epoch {epoch - 1}: "
                f"--resume True {repeated} and gives the same result as a run without a stop."
            )
            raise SystemExit(128 + self.number)

    def stop_after_epoch(self, engine: Engine) -> None:
        if self.number:
            logger.warning(
                f"Stopped after epoch {engine.state.epoch}, which checkpoint.pt holds: --resume True repeats nothing."
            )
            raise SystemExit(128 + self.number)

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Let an error pass, or what follows from a signal: Ctrl-C ends loading processes, too."""
        self.listen_no_more(engine)
        if self.number and isinstance(error, RuntimeError):
            raise SystemExit(128 + self.number) from error
        raise error
