"""What a run shows on the terminal: a progress bar, and one line an epoch."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar as IgniteProgressBar

from scripts.labels import TABLE_ORDER

logger = logging.getLogger(__name__)


class ProgressBar(IgniteProgressBar):
    """Ignite's tqdm bar with the loss of the last step (of a trainer), the speed and the time left.

    It is drawn on terminals only, and cleared before a log line so that both stay readable.

    Args:
        raises: raise an exception of the run again; False where a later handler does.
    """

    def __init__(self, raises: bool = True) -> None:
        self.raises = raises
        super().__init__(bar_format="{desc}{n_fmt}/{total_fmt} |{bar}|{postfix} [{rate_fmt}, {remaining} left]")

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        def loss(output: Any) -> dict[str, torch.Tensor]:
            return {"loss": output["loss"]} if isinstance(output, dict) else {}

        if sys.stderr.isatty():
            super().attach(engine, output_transform=loss)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)
            for handler in logging.getLogger().handlers:
                handler.addFilter(self.clear)

    def clear(self, record: logging.LogRecord) -> bool:
        """Clear the bar before a record is printed; the next step draws it again."""
        if self.pbar is not None:
            self.pbar.clear()
        return True

    def fail(self, engine: Engine, error: Exception) -> None:
        self._close(engine)
        if self.raises:
            raise error


class EpochLine:
    """Logs one line an epoch: its number, the loss, validation Dice by region if there was a validation, time left.

    Attach it after the handlers that set loss/total and run the validation.
    """

    def __init__(self, evaluator: Engine) -> None:
        self.evaluator = evaluator
        self.start = 0.0
        self.epochs = 0  # since the start: a resumed run begins later than at 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def begin(self, engine: Engine) -> None:
        self.start, self.epochs = time.monotonic(), 0

    def __call__(self, engine: Engine) -> None:
        epoch, last = engine.state.epoch, engine.state.max_epochs
        self.epochs += 1
        parts = [f"epoch {epoch}/{last}", f"loss {engine.state.metrics['loss/total']:.4f}"]
        if skipped := engine.state.metrics.get("skipped_steps"):
            parts.append(f"{skipped} of {engine.state.epoch_length} steps skipped")
        if self.evaluator.state.epoch == epoch:
            scores = self.evaluator.state.metrics
            dice = [f"{name} {scores[key]:.3f}" for name in TABLE_ORDER if (key := f"dice/{name}") in scores]
            parts.append(" ".join(["Dice", *dice]))
        seconds = (time.monotonic() - self.start) / self.epochs
        parts.append(f"{duration(seconds * (last - epoch))} left")
        logger.info(", ".join(parts))


def duration(seconds: float) -> str:
    """A time such as 3 h 05 min, 5 min or 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{rest} s"
