"""End a training in good order when the system or the user asks for it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

__all__ = ["StopOnSignal"]

logger = logging.getLogger(__name__)


class StopOnSignal:
    """Ends a run after the step in which SIGTERM or Ctrl-C arrived, with exit code 143 or 130.

    ``checkpoint.pt`` holds the end of the last epoch. An epoch is repeated exactly, so ``--resume True`` gives the
    result of a run that was never stopped. A second Ctrl-C, after two seconds, ends the run at once. Attach it last.

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
        for part in (engine, self.evaluator):
            part.add_event_handler(Events.ITERATION_COMPLETED, self)
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

    def __call__(self, engine: Engine) -> None:
        if self.number:
            logger.warning("Stopped after a step. --resume True goes on from the end of the last epoch.")
            raise SystemExit(128 + self.number)

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Let an error pass, or what follows from a signal: Ctrl-C ends loading processes, too."""
        self.listen_no_more(engine)
        if self.number and isinstance(error, RuntimeError):
            raise SystemExit(128 + self.number) from error
        raise error
