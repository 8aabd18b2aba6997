"""The report's figures, one a panel, so that they flow on any width of screen."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scripts.calibration import BINS
from scripts.curves import COLOURS, draw_panel
from scripts.labels import TABLE_ORDER
from scripts.summary import Scores

__all__ = ["Figure", "calibration_error", "calibration_figure", "distribution_figures", "history_figures"]

MARKERS = ("o", "s", "^")


class Figure(NamedTuple):
    """An SVG, its caption, and a text for those who cannot see it."""

    svg: bytes
    caption: str
    alt: str


def render(draw: Callable[[Axes], None], caption: str, alt: str) -> Figure:
    matplotlib.use("Agg")
    figure, axis = plt.subplots(figsize=(4.6, 3.3), layout="constrained")
    draw(axis)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return Figure(buffer.getvalue(), caption, alt)


def distribution_figures(scores: Scores) -> list[Figure]:
    """Every patient's Dice, HD95 and lesion-wise Dice by region, over a box of quartiles."""
    titles = {"dice": "Dice", "hd95": "HD95 (mm)", "lesion_dice": "lesion-wise Dice"}
    return [distribution(scores, metric, title) for metric, title in titles.items()]


def distribution(scores: Scores, metric: str, title: str) -> Figure:
    columns = [scores.column(region, metric) for region in TABLE_ORDER]
    columns = [column[~np.isnan(column)] for column in columns]
    random = np.random.default_rng(0)

    def draw(axis: Axes) -> None:
        axis.boxplot(
            columns, tick_labels=list(TABLE_ORDER), widths=0.5, showfliers=False, medianprops={"color": "black"}
        )
        for place, (column, colour, marker) in enumerate(zip(columns, COLOURS, MARKERS), start=1):
            aside = random.uniform(-0.16, 0.16, len(column))
            axis.scatter(place + aside, column, s=18, color=colour, marker=marker, alpha=0.75, zorder=3)
        axis.set_ylabel(title)
        axis.grid(alpha=0.3, axis="y")

    medians = ", ".join(f"{region} {np.median(c):.2f}" for region, c in zip(TABLE_ORDER, columns) if len(c))
    return render(draw, f"{title}: one mark a patient, box of quartiles", f"{title} of each patient; medians {medians}")


def history_figures(rows: Sequence[Mapping[str, str]]) -> list[Figure]:
    """Every loss term, the teachers' weights and Dice, the student's validation Dice and the learning rates."""
    names = list(rows[0])
    loss = [name for name in names if name.startswith("loss/")]
    distilled = [name for name in loss if "distil" in name]
    groups = {
        "Loss of the labels": [name for name in loss if name not in (*distilled, "loss/total")],
        "Loss of the soft targets": distilled,
        "Total loss": ["loss/total"] if loss else [],
        "Teacher weights": [name for name in names if name.startswith("weight/")],
        "Whole-tumour Dice of the teachers, training patches": [name for name in names if name.startswith("dice/")],
        "Dice of the student, validation": [name for name in names if name.startswith("validation/dice/")],
        "Learning rate": [name for name in names if name.startswith("lr/")],
    }
    figures = []
    for title, columns in groups.items():
        known = [name for name in columns if any(row[name] for row in rows)]
        if known:
            last = ", ".join(
                f"{name.rpartition('/')[2]} {[row[name] for row in rows if row[name]][-1][:6]}" for name in known
            )
            alt = f"{title} over {len(rows)} epochs; at the end {last}"
            figures.append(render(partial(draw_panel, rows=rows, title=title, columns=known), title, alt))
    return figures


def calibration_error(rows: Sequence[Mapping[str, str]], region: str) -> float:
    """Expected calibration error: mean of |probability - frequency| over bins, weighted by voxels (Naeini 2015),
    without the first bin, which is nearly all of the brain and would hide the others."""
    bins = [row for row in rows if row["region"] == region and int(row["bin"]) > 0]
    voxels = np.array([int(row["voxels"]) for row in bins])
    gaps = np.array([abs(float(row["probability"]) - float(row["frequency"])) for row in bins])
    return float((voxels * gaps).sum() / max(voxels.sum(), 1))


def calibration_figure(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Reliability diagram: the share of true voxels against the probability they were given."""

    def draw(axis: Axes) -> None:
        axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
        for region, colour, marker in zip(TABLE_ORDER, COLOURS, MARKERS):
            bins = [row for row in rows if row["region"] == region and int(row["voxels"])]
            points = [(float(row["probability"]), float(row["frequency"])) for row in bins]
            axis.plot(*zip(*points), color=colour, marker=marker, markersize=5, label=region)
        axis.set(xlabel="probability", ylabel="share of true voxels", xlim=(0, 1), ylim=(0, 1))
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)

    errors = ", ".join(f"{region} {calibration_error(rows, region):.3f}" for region in TABLE_ORDER)
    caption = f"Calibration over all voxels of all patients in {BINS} bins. Expected error above 0.1: {errors}"
    return render(draw, caption, f"Reliability diagram; expected calibration error {errors}")
