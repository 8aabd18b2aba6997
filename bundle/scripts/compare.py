"""Two evaluated runs, patient by patient: is the difference more than chance?

python -m scripts.compare RUN_A RUN_B [--output FILE] [--picture FILE]
python -m scripts.compare A_SEED_0,A_SEED_1 B_SEED_0,B_SEED_1
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from scipy.stats import wilcoxon

from scripts.command import run_command
from scripts.curves import COLOURS
from scripts.errors import UserError
from scripts.labels import TABLE_ORDER
from scripts.metrics import COLUMNS
from scripts.records import check_output, write_table
from scripts.summary import Estimate, Scores, caption, cell, estimate, format_table, number, read_scores

__all__ = ["Difference", "compare", "paired_difference"]

logger = logging.getLogger(__name__)

LESS_IS_BETTER = ("hd95", "lesion_hd95", "volume_error_ml")
FEWEST = 6  # patients that all agree give the signed-rank test p = 2 / 2^6 = 0.03
DECIMALS = 6  # of metrics.csv: what is equal there is a tie


class Difference(NamedTuple):
    """A against B over the patients that both score: A - B, and on how many of them A is better, worse, level."""

    difference: Estimate
    p: float
    wins: int
    losses: int
    ties: int


def compare(run_a: str, run_b: str, output: str | None = None, picture: str | None = None) -> None:
    """Print mean paired differences A - B with 95% bootstrap intervals, Wilcoxon signed-rank p, wins and losses.

    Args:
        run_a: an evaluated run's folder, or a metrics.csv; of several with commas between them, such as seeds, each
            patient's mean is taken.
        run_b: another, of the same patients.
        output: a CSV to write the table to.
        picture: a PNG to draw every patient's difference in Dice to.

    Raises:
        UserError: if a run has no metrics.csv, the runs have no patient in common, or follow different rules for
            empty regions.
    """
    if output:
        check_output(output, "output", ".csv")
    if picture:
        check_output(picture, "picture", ".png")
    run_a, run_b = (run if isinstance(run, str) else ",".join(run) for run in (run_a, run_b))  # fire splits at commas
    a, b = mean_scores(run_a), mean_scores(run_b)
    common = sorted(set(a.cases) & set(b.cases))
    if not common:
        raise UserError(f"{a.path} and {b.path} have no patient in common: evaluate both on the same fold.")
    refuse_other_rules([a, b])
    if only := sorted(set(a.cases) ^ set(b.cases)):
        logger.warning(f"Left out {len(only)} patient(s) of one run alone: {', '.join(only)}.")
    if len(common) < FEWEST:
        logger.warning(f"{len(common)} patient(s) in both: with fewer than {FEWEST} no p can fall below 0.05.")
    rows = [difference_row(a, b, common, region, metric) for region in TABLE_ORDER for metric in COLUMNS]
    print(f"A = {run_a}\nB = {run_b}\n{caption(a).splitlines()[1]} ({run_a})\n{caption(b).splitlines()[1]} ({run_b})")
    print(f"{len(common)} patients in both; A - B: mean [95% bootstrap interval]; p: Wilcoxon signed-rank, two-sided,")
    print("not corrected for the number of lines; a win is a patient on whom A is better. Of volume errors the size is")
    print("compared, without its sign.\n")
    print(format_table([["region, metric", "A", "B", "A - B", "p", "wins", "losses", "ties"], *map(line, rows)]))
    if output:
        write_table(Path(output), rows)
    if picture:
        columns = {region: [scores.column(region, "dice", common) for scores in (a, b)] for region in TABLE_ORDER}
        draw_differences(columns, f"A {run_a}, B {run_b}", picture)


def mean_scores(runs: str) -> Scores:
    """Each patient's mean over runs of one kind, such as seeds."""
    tables = [read_scores(run) for run in runs.split(",")]
    refuse_other_rules(tables)
    first = tables[0]
    for table in tables[1:]:
        if table.cases != first.cases:
            raise UserError(f"{first.path} and {table.path} score other patients: evaluate both on the same fold.")
    values = {
        key: {metric: float(np.mean([table.values[key][metric] for table in tables])) for metric in COLUMNS}
        for key in first.values
    }
    touched = {region: sorted({case for t in tables for case in t.touched.get(region, ())}) for region in TABLE_ORDER}
    return replace(first, values=values, touched=touched)


def refuse_other_rules(tables: Sequence[Scores]) -> None:
    first = tables[0]
    for table in tables[1:]:
        for key in ("empty_rule", "et_threshold_ml"):
            if getattr(first, key) != getattr(table, key):
                values = f"{getattr(first, key)!r} and {getattr(table, key)!r}"
                raise UserError(f"{first.path} and {table.path} have the {key} {values}: score both in the same way.")


def difference_row(a: Scores, b: Scores, cases: Sequence[str], region: str, metric: str) -> dict[str, Any]:
    of_a, of_b = a.column(region, metric, cases), b.column(region, metric, cases)
    if metric == "volume_error_ml":
        of_a, of_b = np.abs(of_a), np.abs(of_b)
    result = paired_difference(of_a, of_b, less_is_better=metric in LESS_IS_BETTER)
    interval = result.difference
    return {
        **{"region": region, "metric": metric, "mean_a": estimate(of_a).mean, "mean_b": estimate(of_b).mean},
        **{"difference": interval.mean, "low": interval.low, "high": interval.high, "patients": interval.patients},
        **{"p": result.p, "wins": result.wins, "losses": result.losses, "ties": result.ties},
    }


def line(row: dict[str, Any]) -> list[str]:
    metric = row["metric"]
    difference = Estimate(row["difference"], row["low"], row["high"], row["patients"])
    means = [number(metric, row[name]) for name in ("mean_a", "mean_b")]
    counts = [str(row[name]) for name in ("wins", "losses", "ties")]
    return [f"{row['region']} {metric}", *means, cell(metric, difference), f"{row['p']:.3f}", *counts]


def paired_difference(a: np.ndarray, b: np.ndarray, less_is_better: bool = False) -> Difference:
    """Mean of a - b with its bootstrap interval, Wilcoxon signed-rank p (1 where all differences are 0), and counts.

    Where less is better, the smaller wins. Patients with NaN in either are left out.

    Shapes: a, b (N,).
    """
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known].round(DECIMALS), b[known].round(DECIMALS)
    differences = (a - b).round(DECIMALS)
    gains = -differences if less_is_better else differences
    if not len(differences):
        p = np.nan
    elif not differences.any():
        p = 1.0
    else:
        p = float(wilcoxon(a, b).pvalue)
    return Difference(estimate(differences), p, int((gains > 0).sum()), int((gains < 0).sum()), int((gains == 0).sum()))


def draw_differences(columns: Mapping[str, Sequence[np.ndarray]], title: str, picture: str) -> None:
    """Dice of A less B of each patient, by region, against B's Dice; a band for the mean's interval."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, len(columns), figsize=(3.4 * len(columns), 3.2), sharey=True, layout="constrained")
    for axis, (region, (a, b)) in zip(axes, columns.items()):
        mean = paired_difference(a, b).difference
        axis.axhline(0, color="black", linewidth=0.8)
        axis.axhspan(mean.low, mean.high, color=COLOURS[0], alpha=0.2, linewidth=0)
        axis.axhline(mean.mean, color=COLOURS[0])
        axis.scatter(b, a - b, s=16, color=COLOURS[1], edgecolor="black", linewidth=0.4, zorder=3)
        axis.set(title=f"{region} {cell('dice', mean)}", xlabel="Dice of B")
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Dice of A less Dice of B")
    figure.suptitle(title, fontsize=9)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    run_command(compare)
