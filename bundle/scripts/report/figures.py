"""The report's charts: one SVG a panel, so that they flow over screens of any width."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.evaluation.calibration_table import BINS, calibration_error
from scripts.evaluation.summary import Scores
from scripts.labels import REGION_COLOURS, TABLE_ORDER
from scripts.report.curves import PANELS, columns_of, draw_panel
from scripts.report.titles import METRICS

MARKERS = ("o", "s", "^")


class Chart(NamedTuple):
    """An SVG, its caption, and a text for readers who cannot see it."""

    svg: bytes
    caption: str
    alt: str


def render_chart(draw: Callable[[Axes], None], caption: str, alt: str) -> Chart:
    """A chart of one panel."""
    figure = Figure(figsize=(4.6, 3.3), layout="constrained")
    draw(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Chart(buffer.getvalue(), caption, alt)


def distribution_figures(scores: Scores) -> list[Chart]:
    """Every patient's Dice, surface distance and lesion-wise Dice by region, over a box of quartiles."""
    return [distribution(scores, metric, METRICS[metric].title) for metric in ("dice", "hd95", "lesion_dice")]


def distribution(scores: Scores, metric: str, title: str) -> Chart:
    """One mark a patient in each region, the mean of their scans, over a box of quartiles."""
    columns = [scores.column(region, metric) for region in TABLE_ORDER]
    columns = [column[~np.isnan(column)] for column in columns]
    random = np.random.default_rng(0)

    def draw(axis: Axes) -> None:
        axis.boxplot(
            columns, tick_labels=list(TABLE_ORDER), widths=0.5, showfliers=False, medianprops={"color": "black"}
        )
        for place, (column, colour, marker) in enumerate(zip(columns, REGION_COLOURS.values(), MARKERS), start=1):
            aside = random.uniform(-0.16, 0.16, len(column))
            axis.scatter(place + aside, column, s=18, color=colour, marker=marker, alpha=0.75, zorder=3)
        axis.set_ylabel(title)
        axis.grid(alpha=0.3, axis="y")

    medians = ", ".join(f"{region} {np.median(c):.2f}" for region, c in zip(TABLE_ORDER, columns) if len(c))
    return render_chart(
        draw, f"{title}: one mark a patient, box of quartiles", f"{title} of each patient; medians {medians}"
    )


def history_figures(rows: Sequence[Mapping[str, str]]) -> list[Chart]:
    """Charts of the loss terms, confidence and Dice of the teachers, the student's validation Dice, learning rates."""
    panels = {
        "Terms of the loss": [name for name in columns_of(rows, "loss/") if name != "loss/total"],
        "Total loss": columns_of(rows, "loss/total"),
        **{title: columns_of(rows, prefix) for title, prefix in PANELS},
        "Learning rate": columns_of(rows, "lr/"),
    }
    charts = []
    for title, columns in panels.items():
        if columns:
            last = {name.rpartition("/")[2]: [row[name] for row in rows if row[name]][-1] for name in columns}
            at_the_end = ", ".join(f"{name} {float(value):.4g}" for name, value in last.items())
            alt = f"{title} over {len(rows)} epochs; at the end {at_the_end}"
            charts.append(render_chart(partial(draw_panel, rows=rows, title=title, columns=columns), title, alt))
    return charts


def calibration_figure(rows: Sequence[Mapping[str, str]]) -> Chart:
    """Reliability diagram: the share of true voxels against their predicted probability."""

    def draw(axis: Axes) -> None:
        axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
        for region, colour, marker in zip(TABLE_ORDER, REGION_COLOURS.values(), MARKERS):
            bins = [row for row in rows if row["region"] == region and int(row["voxels"])]
            points = [(float(row["probability"]), float(row["frequency"])) for row in bins]
            axis.plot(*zip(*points), color=colour, marker=marker, markersize=5, label=region)
        axis.set(xlabel="probability", ylabel="share of true voxels", xlim=(0, 1), ylim=(0, 1))
        axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)  # below the axes
        axis.grid(alpha=0.3)

    errors = ", ".join(f"{region} {calibration_error(rows, region):.3f}" for region in TABLE_ORDER)
    caption = f"Calibration over all voxels of all patients in {BINS} bins. Expected error above 0.1: {errors}"
    return render_chart(draw, caption, f"Reliability diagram; expected calibration error {errors}")
