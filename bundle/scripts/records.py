"""Ignite handlers that write a run's figures to tables."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from scripts.errors import UserError
from scripts.labels import REGION_NAMES

__all__ = [
    "History",
    "RegionDice",
    "check_output",
    "named_runs",
    "read_table",
    "write_json",
    "write_table",
    "write_text",
]


class RegionDice:
    """Names the regions of the key metric: dice/TC, dice/WT, dice/ET in ``engine.state.metrics``.

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
    """One row an epoch in ``history.csv``: learning rates, loss terms, teachers' weights and Dice, validation Dice.

    The file is replaced after every epoch; a resumed run keeps the rows of the epochs before it.
    """

    def __init__(self, output_dir: str, evaluator: Engine) -> None:
        self.path = Path(output_dir, "history.csv")
        self.evaluator = evaluator
        self.rows: list[dict[str, Any]] | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def rows_before(self, epoch: int) -> list[dict[str, Any]]:
        return [row for row in read_table(self.path) if int(row["epoch"]) < epoch]

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


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV that ``write_table`` wrote, every value a text; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, to a temporary file that is renamed; columns in the order in which they first appear."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)


def check_output(path: str, key: str, suffix: str) -> None:
    """Raises UserError, before any work, if a file cannot be written."""
    target = Path(path)
    if target.is_dir() or target.suffix != suffix:
        raise UserError(f"{key} is {path!r}, expected the path of a {suffix} file to write.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key} {path}: its folder cannot be made ({error.strerror}): give another path.") from error


def named_runs(runs: str) -> dict[str, str]:
    """Folders of runs by name, of NAME=DIR,NAME=DIR. Raises UserError if runs is not that."""
    pairs = [item.partition("=") for item in str(runs).split(",")]
    if not all(name and folder for name, _, folder in pairs):
        raise UserError(f"runs is {runs!r}, expected NAME=DIR,NAME=DIR.")
    return {name: folder for name, _, folder in pairs}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, NaN as null, to a temporary file that is renamed."""
    write_text(path, json.dumps(without_nan(document), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file by way of a temporary one that is renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
