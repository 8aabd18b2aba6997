"""The table of a training: one row an epoch, with the Dice of every region."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.documents import number_or_nan, some
from scripts.files import read_table, write_table
from scripts.labels import REGION_NAMES

if TYPE_CHECKING:
    from ignite.engine import Engine  # a report reads the table without PyTorch, which takes seconds to import

logger = logging.getLogger(__name__)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Rows of a history.csv; none if it does not exist. Raises UserError if a row is broken."""
    return read_table(path, {"epoch": int, "*": number_or_nan})


class RegionDice:
    """Sets dice/TC, dice/WT and dice/ET in ``engine.state.metrics``: the key metric by region.

    Args:
        key_metric: name of a metric with details of shape (patients, regions).
    """

    def __init__(self, key_metric: str) -> None:
        self.key_metric = key_metric

    def attach(self, engine: Engine) -> None:
        from ignite.engine import Events

        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        dice = engine.state.metric_details[self.key_metric]  # (patients of all ranks, regions)
        engine.state.metrics |= {f"dice/{name}": mean.item() for name, mean in zip(REGION_NAMES, dice.nanmean(dim=0))}


class History:
    """Writes one row an epoch to ``history.csv``: learning rates, loss terms, teachers' weights and Dice, validation.

    The file is replaced after every epoch. A resumed run keeps the rows of earlier epochs; a broken row stops it before
    its first epoch, and a warning names epochs that have none.
    """

    def __init__(self, output_dir: str, evaluator: Engine) -> None:
        self.path = Path(output_dir, "history.csv")
        self.evaluator = evaluator
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        from ignite.engine import Events

        engine.add_event_handler(Events.EPOCH_STARTED, self.read_earlier)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def read_earlier(self, engine: Engine) -> None:
        """Read the rows before the first epoch of this process."""
        if self.rows:  # a later epoch, or they are read
            return
        epoch = engine.state.epoch
        self.rows = [row for row in read_history(self.path) if int(row["epoch"]) < epoch]
        if lacking := sorted(set(range(1, epoch)) - {int(row["epoch"]) for row in self.rows}):
            logger.warning(
                f"{self.path} has no row of epoch {some(lacking, 10)}, which this run has done: curves lack them."
            )

    def __call__(self, engine: Engine) -> None:
        row = {"epoch": engine.state.epoch}
        groups = enumerate(engine.optimizer.param_groups)
        row |= {f"lr/{group.get('name', number)}": group["lr"] for number, group in groups}
        row |= engine.state.metrics
        if self.evaluator.state.epoch == engine.state.epoch:
            row |= {f"validation/{name}": value for name, value in self.evaluator.state.metrics.items()}
        self.rows.append(row)
        write_table(self.path, self.rows)
