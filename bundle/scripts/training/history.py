"""The table of a training: one row an epoch, with the Dice of every region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from scripts.files import read_table, write_table
from scripts.labels import REGION_NAMES

__all__ = ["History", "RegionDice"]


class RegionDice:
    """Sets dice/TC, dice/WT and dice/ET in ``engine.state.metrics``: the key metric by region.

    Args:
        key_metric: name of a metric with details of shape (patients, regions).
    """

    def __init__(self, key_metric: str) -> None:
        self.key_metric = key_metric

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        dice = engine.state.metric_details[self.key_metric]  # (patients of all ranks, regions)
        engine.state.metrics |= {f"dice/{name}": mean.item() for name, mean in zip(REGION_NAMES, dice.nanmean(dim=0))}


class History:
    """Writes one row an epoch to ``history.csv``: learning rates, loss terms, teachers' weights and Dice, validation.

    The file is replaced after every epoch. A resumed run keeps the rows of earlier epochs.
    """

    def __init__(self, output_dir: str, evaluator: Engine) -> None:
        self.path = Path(output_dir, "history.csv")
        self.evaluator = evaluator
        self.rows: list[dict[str, Any]] | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def rows_before(self, epoch: int) -> list[dict[str, Any]]:
        """Rows of the file before an epoch."""
        return [row for row in read_table(self.path, {"epoch": int}) if int(row["epoch"]) < epoch]

    def __call__(self, engine: Engine) -> None:
        if self.rows is None:
            self.rows = self.rows_before(engine.state.epoch)
        row = {"epoch": engine.state.epoch}
        row |= {f"lr/{group['name']}": group["lr"] for group in engine.optimizer.param_groups}
        row |= engine.state.metrics
        if self.evaluator.state.epoch == engine.state.epoch:
            row |= {f"validation/{name}": value for name, value in self.evaluator.state.metrics.items()}
        self.rows.append(row)
        write_table(self.path, self.rows)
