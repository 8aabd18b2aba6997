"""Two evaluated runs, patient by patient: is the difference more than chance?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import wilcoxon
from tqdm import tqdm

from scripts.command import Positional
from scripts.errors import UserError
from scripts.evaluation.metrics import COLUMNS, ERRORS
from scripts.evaluation.patients import by_patient, count_patients, mean_of, patients_text
from scripts.evaluation.run_paths import run_paths
from scripts.evaluation.same_rules import check_same_rules, shared_rule
from scripts.evaluation.summary import Estimate, Scores, caption, cell, estimate, number, read_scores
from scripts.files import check_output, format_table, replacing, write_table
from scripts.labels import SERIES_COLOURS, TABLE_ORDER

logger = logging.getLogger(__name__)

FEWEST = 6  # patients that all agree give the signed-rank test p = 2 / 2^6 = 0.03
HEADER = "region,metric,mean_a,mean_b,difference"  # begins the CSV
DECIMALS = 6  # of metrics.csv: what is equal there is a tie
HEADINGS = ("patients", "A", "B", "A - B", "p", "wins", "losses", "ties")  # of the cells of ``row_cells``
EXPLANATION = """A - B: mean [95% bootstrap interval]; p: Wilcoxon signed-rank, two-sided, not corrected for the number
of rows; a win is a patient with a better score in A. Volume errors are compared by size, without their sign. A line
counts the patients whom both runs score; of several scans of a patient it takes the mean."""


class Difference(NamedTuple):
    """A - B over patients, and on how many of them A is better, worse or equal."""

    difference: Estimate
    p: float
    wins: int
    losses: int
    ties: int


def compare(run_a: Positional, run_b: Positional, output: str | None = None, picture: str | None = None) -> None:
    """Compare two evaluated runs patient by patient: differences, intervals, p, wins and losses.

    Args:
        run_a: an evaluated run's folder, or a metrics.csv; several with commas, such as seeds, are averaged for each
            patient.
        run_b: the other run or runs, of the same patients.
        output: a CSV to write the table to.
        picture: a PNG to draw every patient's difference in Dice to.

    Raises:
        UserError: if a run has no metrics.csv, the runs have no patient in common, or follow different rules for
            empty regions.
    """
    if output:
        check_output(output, "output", ".csv", {".csv": HEADER}, sources=[*run_paths(run_a), *run_paths(run_b)])
    if picture:
        check_output(picture, "picture", ".png")
    a, b = mean_scores(run_a), mean_scores(run_b)
    check_same_rules([a, b])
    common = common_cases(a, b)
    rows = differences(a, b, common)
    if output:
        write_table(Path(output), rows)
    if picture:
        columns = {region: paired_columns(a, b, common, region, "dice") for region in TABLE_ORDER}
        draw_differences(columns, f"A {run_a}, B {run_b}", picture)
    print(f"A = {run_a}\nB = {run_b}")
    for name, scores in (("A", a), ("B", b)):
        print(f"{name}: {caption(scores).splitlines()[1]}")
    print(f"{patients_text(common, a.patient | b.patient)} in both. {EXPLANATION}\n")
    lines = [[f"{row['region']} {row['metric']}", *row_cells(row)] for row in rows]
    print(format_table([["region, metric", *HEADINGS], *lines]))


def differences(a: Scores, b: Scores, cases: Sequence[str]) -> list[dict]:
    """Every metric of each region: means of both and their paired difference."""
    keys = [(region, metric) for region in TABLE_ORDER for metric in COLUMNS]
    bar = tqdm(keys, desc="Comparing", disable=None, leave=False)
    return [difference_row(a, b, cases, region, metric) for region, metric in bar]


def mean_scores(runs: str) -> Scores:
    """The scores of a run; of several with commas, such as seeds, each patient's mean.

    Raises:
        UserError: if the runs score other patients, or by other rules.
    """
    return mean_of_seeds([read_scores(run) for run in run_paths(runs)])


def mean_of_seeds(tables: Sequence[Scores]) -> Scores:
    """Each case's mean over the tables; of volume errors the mean size, as opposite signs would cancel.

    Raises:
        UserError: if the tables score other cases, or by other rules.
    """
    check_same_rules(tables)
    first = tables[0]
    for table in tables[1:]:
        if table.cases != first.cases:
            raise UserError(f"{first.path} and {table.path} score other patients: evaluate both on the same fold.")
    values = {
        key: {
            metric: float(np.mean([sized(metric, table.values[key][metric]) for table in tables])) for metric in COLUMNS
        }
        for key in first.values
    }
    empty = {r: sorted({case for table in tables for case in table.empty_cases.get(r, ())}) for r in TABLE_ORDER}
    return replace(first, values=values, empty_rule=shared_rule(tables), empty_cases=empty)


def pooled(tables: Sequence[Scores]) -> Scores:
    """The patients of all tables, such as folds. Raises UserError if two hold one patient, or follow other rules."""
    check_same_rules(tables)
    values: dict[tuple[str, str], dict[str, float]] = {}
    for table in tables:
        if both := sorted({case for case, _ in values} & set(table.cases)):
            raise UserError(f"{both[0]} is scored in two folds, the second {table.path}: make the datalist again.")
        values |= table.values
    empty = {r: sorted(case for table in tables for case in table.empty_cases.get(r, ())) for r in TABLE_ORDER}
    by_case = ("truth", "patient", "prediction_checksum", "truth_checksum")
    merged: dict[str, Any] = {
        name: {case: item for table in tables for case, item in getattr(table, name).items()} for name in by_case
    }
    return replace(tables[0], values=values, empty_rule=shared_rule(tables), empty_cases=empty, **merged)


def common_cases(a: Scores, b: Scores) -> list[str]:
    """The patients of both runs, sorted. Raises UserError if there are none, and warns of those left out."""
    common = sorted(set(a.cases) & set(b.cases))
    if not common:
        raise UserError(f"{a.path} and {b.path} have no patient in common: evaluate both on the same fold.")
    if only := sorted(set(a.cases) ^ set(b.cases)):
        logger.warning(f"Left out {len(only)} scan(s) of only one run: {', '.join(only)}.")
    if (count := count_patients(common, a.patient | b.patient)) < FEWEST:
        logger.warning(f"{count} patient(s) in both: with fewer than {FEWEST} no p can fall below 0.05.")
    return common


def sized(metric: str, value: float) -> float:
    """A score as it is compared: a volume error without its sign."""
    return abs(value) if metric == "volume_error_ml" else value


def paired_columns(a: Scores, b: Scores, cases: Sequence[str], region: str, metric: str) -> list[np.ndarray]:
    """One metric of one region in both runs, a value a patient, from the cases whose score is known in both."""
    pairs = {case: [sized(metric, scores.values[case, region][metric]) for scores in (a, b)] for case in cases}
    known = {case: pair for case, pair in pairs.items() if not np.isnan(pair).any()}
    patient = a.patient | b.patient
    return [by_patient(list(known), [pair[side] for pair in known.values()], patient) for side in (0, 1)]


def difference_row(a: Scores, b: Scores, cases: Sequence[str], region: str, metric: str) -> dict[str, Any]:
    """One row of the table, over the patients whom both runs score: means, difference with its interval, p, counts."""
    of_a, of_b = paired_columns(a, b, cases, region, metric)
    result = paired_difference(of_a, of_b, less_is_better=metric in ERRORS)
    interval = result.difference
    return {
        **{"region": region, "metric": metric, "mean_a": mean_of(of_a), "mean_b": mean_of(of_b)},
        **{"difference": interval.mean, "low": interval.low, "high": interval.high, "patients": interval.patients},
        **{"p": result.p, "wins": result.wins, "losses": result.losses, "ties": result.ties},
    }


def row_cells(row: dict[str, Any]) -> list[str]:
    """A row of the table as people read it, under HEADINGS."""
    metric = row["metric"]
    difference = Estimate(row["difference"], row["low"], row["high"], row["patients"])
    means = [number(metric, row[name]) for name in ("mean_a", "mean_b")]
    counts = [str(row[name]) for name in ("wins", "losses", "ties")]
    return [str(row["patients"]), *means, cell(metric, difference), f"{row['p']:.3f}", *counts]


def paired_difference(a: np.ndarray, b: np.ndarray, less_is_better: bool = False) -> Difference:
    """Mean of a - b with its bootstrap interval, Wilcoxon signed-rank p (1 where all differences are 0), and counts.

    Where less is better, the smaller wins.

    Shapes: a, b (N,).
    """
    differences = (a.round(DECIMALS) - b.round(DECIMALS)).round(DECIMALS)
    gains = -differences if less_is_better else differences
    if not len(differences):
        p = np.nan
    elif not differences.any():
        p = 1.0
    else:
        p = float(wilcoxon(differences).pvalue)  # from a and b it would rank rounding errors
    return Difference(estimate(differences), p, int((gains > 0).sum()), int((gains < 0).sum()), int((gains == 0).sum()))


def draw_differences(columns: Mapping[str, Sequence[np.ndarray]], title: str, picture: str) -> None:
    """Draw each patient's Dice of A minus Dice of B by region, against B's Dice; a band shows the mean's interval."""
    figure = Figure(figsize=(3.4 * len(columns), 3.2), layout="constrained")
    axes = figure.subplots(1, len(columns), sharey=True)
    for axis, (region, (a, b)) in zip(axes, columns.items()):
        mean = paired_difference(a, b).difference
        axis.axhline(0, color="black", linewidth=0.8)
        axis.axhspan(mean.low, mean.high, color=SERIES_COLOURS[0], alpha=0.2, linewidth=0)
        axis.axhline(mean.mean, color=SERIES_COLOURS[0])
        axis.scatter(b, a - b, s=16, color=SERIES_COLOURS[1], edgecolor="black", linewidth=0.4, zorder=3)
        axis.set_title(f"{region} {cell('dice', mean)}", fontsize=10)
        axis.set_xlabel("Dice of B")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Dice of A minus Dice of B")
    figure.suptitle(title, fontsize=9, parse_math=False)  # folders may hold a $
    with replacing(Path(picture)) as partial:
        figure.savefig(partial, dpi=110)
