"""Curves of one run over its epochs, or of several side by side: losses, confidence, validation Dice."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scripts.documents import some
from scripts.errors import UserError
from scripts.evaluation.run_paths import named_runs
from scripts.files import check_output, replacing
from scripts.labels import OTHER_COLOURS, REGION_COLOURS, SEQUENCE_COLOURS, SERIES_COLOURS
from scripts.training.history import read_history

PANELS = (  # of one run: title, prefix of columns in history.csv
    ("Confidence in the teachers", "weight/"),
    ("Whole-tumour Dice of the teachers, training patches", "dice/"),
    ("Dice of the student, validation", "validation/dice/"),
)
COMPARED = (  # of several runs: title, column of history.csv
    ("Labels' loss, training patches", "loss/student"),
    ("WT Dice, validation", "validation/dice/WT"),
    ("TC Dice, validation", "validation/dice/TC"),
    ("ET Dice, validation", "validation/dice/ET"),
)
STYLES = ("-", "--", "-.")
MARKERS = ("o", "s", "^", "D")
MEANINGS = {**SEQUENCE_COLOURS, **REGION_COLOURS}


def draw_curves(picture: str, run: str | None = None, runs: str | None = None) -> None:
    """Draw the curves of a training, or of several trainings side by side.

    Args:
        picture: the PNG to write.
        run: the output_dir of a training.
        runs: instead of run, NAME=DIR,NAME=DIR; a pattern such as ``OUT/fold_*`` is drawn as the mean of the folders
            that match.

    Raises:
        UserError: if neither or both of run and runs are given, a run has no history.csv or nothing in it to draw, the
            runs of one pattern have different epochs, or picture is not a PNG.
    """
    if (run is None) == (runs is None):
        raise UserError("give either --run DIR, or --runs NAME=DIR,NAME=DIR to see several side by side.")
    check_output(picture, "picture", ".png")
    if runs is None:
        rows = history_of(Path(str(run)))
        panels = [(title, columns_of(rows, prefix)) for title, prefix in PANELS]
    else:
        folders = named_runs(runs)
        rows = side_by_side({name: mean_history(pattern) for name, pattern in folders.items()})
        panels = [(title, [f"{column}/{name}" for name in folders]) for title, column in COMPARED]
    colours = OTHER_COLOURS if runs is None else SERIES_COLOURS
    panels = [(title, columns) for title, columns in panels if any(row.get(name) for name in columns for row in rows)]
    if not panels:
        raise UserError(f"{run or runs}: history.csv holds nothing to draw yet: let the training reach a validation.")
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for axis, (title, columns) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        draw_panel(axis, rows, title, columns, colours)
    with replacing(Path(picture)) as partial:
        figure.savefig(partial, dpi=110)
    print(f"{len(rows)} epochs are drawn in {picture}.")


def columns_of(rows: Sequence[Mapping[str, str]], prefix: str) -> list[str]:
    """Columns whose name has this prefix and that hold any value."""
    return [name for name in rows[0] if name.startswith(prefix) and any(row.get(name) for row in rows)]


def history_of(folder: Path) -> list[dict[str, str]]:
    """The rows of history.csv in a training's folder. Raises UserError if there are none."""
    rows = read_history(folder / "history.csv")
    if not rows:
        raise UserError(f"{folder / 'history.csv'} does not exist or is empty: give the output_dir of a training.")
    return rows


def mean_history(pattern: str) -> list[dict[str, str]]:
    """The columns of COMPARED: in each epoch the mean of all runs that the pattern matches.

    Raises:
        UserError: if a run has no history, or the runs have different epochs.
    """
    folders = [path for path in map(Path, sorted(glob.glob(pattern))) if path.is_dir()]
    histories = [history_of(folder) for folder in folders or [Path(pattern)]]
    by_epoch = [{row["epoch"]: row for row in rows} for rows in histories]
    epochs = set[str]().union(*by_epoch)
    if lacking := sorted((epoch for epoch in epochs if not all(epoch in run for run in by_epoch)), key=int):
        raise UserError(
            f"the runs of {pattern} do not all have epoch {some(lacking)} in history.csv: give runs of the same epochs."
        )
    rows = []
    for epoch in sorted(epochs, key=int):
        row = {"epoch": epoch}
        for _, column in COMPARED:
            values = [run[epoch].get(column, "") for run in by_epoch]
            row[column] = str(np.mean([float(value) for value in values])) if all(values) else ""
        rows.append(row)
    return rows


def side_by_side(histories: Mapping[str, Sequence[Mapping[str, str]]]) -> list[dict[str, str]]:
    """One row an epoch, with the columns COLUMN/NAME of each history."""
    rows: dict[str, dict[str, str]] = {}
    for name, history in histories.items():
        for row in history:
            values = {f"{column}/{name}": value for column, value in row.items() if column != "epoch"}
            rows.setdefault(row["epoch"], {"epoch": row["epoch"]}).update(values)
    return sorted(rows.values(), key=lambda row: int(row["epoch"]))


def draw_panel(
    axis: Axes,
    rows: Sequence[Mapping[str, str]],
    title: str,
    columns: Sequence[str],
    colours: Sequence[str] = OTHER_COLOURS,
) -> None:
    """Draw columns of history.csv over the epochs; epochs without a value are skipped.

    A column of a sequence or a region has its colour; ``colours`` are for the others.
    """
    spare = itertools.cycle(colours)
    for name, style, marker in zip(columns, itertools.cycle(STYLES), itertools.cycle(MARKERS)):  # twelve looks
        label = name.rpartition("/")[2]
        meaning = next((MEANINGS[part] for part in label.split("_") if part in MEANINGS), None)
        points = [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
        every = max(len(points) // 8, 1)
        look: dict[str, Any] = {
            "linestyle": style,
            "marker": marker,
            "markevery": every,
            "markersize": 4,
            "linewidth": 1.8,
        }
        if points:
            axis.plot(*zip(*points), color=meaning or next(spare), label=label, **look)
    axis.set(title=title, xlabel="epoch")
    axis.title.set_fontsize(10)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend = axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)  # below
    for text in legend.get_texts():
        text.set_parse_math(False)  # names of runs may hold a $
    axis.grid(alpha=0.3)
