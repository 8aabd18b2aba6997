"""The course of a run: teacher weights, teachers' training Dice, and the student's validation Dice over epochs.

python -m scripts.curves --run DIR --picture FILE
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scripts.command import run_command
from scripts.errors import UserError
from scripts.records import check_output

__all__ = ["draw_curves", "draw_panel"]

PANELS = (  # title, prefix of the columns of history.csv
    ("Teacher weight", "weight/"),
    ("Whole-tumour Dice of the teachers, training patches", "dice/"),
    ("Dice of the student, validation", "validation/dice/"),
)
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # apart for colour-blind readers (Okabe and Ito)
STYLES = ("-", "--", ":")


def draw_curves(run: str, picture: str) -> None:
    """Draw ``history.csv`` of a training run.

    Args:
        run: the output_dir of a training.
        picture: the PNG to write.

    Raises:
        UserError: if the run has no history.csv, or picture is no PNG.
    """
    path = Path(run, "history.csv")
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the output_dir of a training.")
    check_output(picture, "picture", ".png")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    matplotlib.use("Agg")
    panels = [(title, prefix) for title, prefix in PANELS if any(name.startswith(prefix) for name in rows[0])]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.2), layout="constrained", squeeze=False)
    for axis, (title, prefix) in zip(axes[0], panels):
        draw_panel(axis, rows, title, [name for name in rows[0] if name.startswith(prefix)])
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    print(f"{len(rows)} epochs are drawn in {picture}.")


def draw_panel(axis: Axes, rows: Sequence[Mapping[str, str]], title: str, columns: Sequence[str]) -> None:
    """Lines of some columns of history.csv over the epochs; epochs without a value are passed over."""
    looks = itertools.cycle(itertools.product(STYLES, COLOURS))
    for name, (style, colour) in zip(columns, looks):
        points = [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
        if points:
            axis.plot(*zip(*points), color=colour, linestyle=style, label=name.rpartition("/")[2])
    axis.set(title=title, xlabel="epoch")
    axis.title.set_fontsize(10)
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.3)


if __name__ == "__main__":
    run_command(draw_curves)
