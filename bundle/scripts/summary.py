"""Tables of scores: written, read back, and summed up as means with 95% bootstrap intervals over patients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import bootstrap

from scripts.errors import UserError
from scripts.labels import TABLE_ORDER
from scripts.metrics import COLUMNS, EMPTY_RULES
from scripts.records import read_table, write_json, write_table

__all__ = ["CaseScore", "Estimate", "Scores", "estimate", "format_table", "print_table", "read_scores", "write_scores"]

RESAMPLES = 10_000
MILLIMETRES = ("hd95", "lesion_hd95")


class CaseScore(NamedTuple):
    """Metrics of one region of one case; ``empty`` where the region is empty in truth or prediction."""

    case: str
    region: str
    metrics: dict[str, float]
    empty: bool


class Estimate(NamedTuple):
    """A mean and its 95% interval over this many patients; NaN where there is none."""

    mean: float
    low: float
    high: float
    patients: int


@dataclass
class Scores:
    """A metrics.csv: ``values[case, region][metric]``, and what its JSON says of empty regions."""

    path: Path
    values: dict[tuple[str, str], dict[str, float]]
    empty_rule: str
    touched: dict[str, list[str]]
    et_threshold_ml: float = 0.0

    @property
    def cases(self) -> list[str]:
        return sorted({case for case, _ in self.values})

    def column(self, region: str, metric: str, cases: Sequence[str] | None = None) -> np.ndarray:
        """One metric of one region of all cases, in their order."""
        return np.array([self.values[case, region][metric] for case in cases or self.cases])

    def summary(self) -> dict[str, dict[str, Estimate]]:
        """Estimate by region and metric."""
        return {region: {metric: estimate(self.column(region, metric)) for metric in COLUMNS} for region in TABLE_ORDER}


def estimate(values: np.ndarray, seed: int = 0) -> Estimate:
    """Mean and percentile bootstrap interval of (N,) values, NaN left out (Efron and Tibshirani 1993)."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan, 0)
    mean = float(values.mean())
    if len(values) == 1:
        return Estimate(mean, np.nan, np.nan, 1)
    result = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=seed)
    low, high = result.confidence_interval
    return Estimate(mean, float(low), float(high), len(values))


def write_scores(path: Path, scores: Sequence[CaseScore], empty_rule: str, et_threshold_ml: float = 0.0) -> Scores:
    """Write the CSV (columns case, region, and metrics.COLUMNS; NaN as nothing) and the JSON beside it."""
    rows = [
        {"case": item.case, "region": item.region}
        | {name: "" if np.isnan(item.metrics[name]) else f"{item.metrics[name]:.6f}" for name in COLUMNS}
        for item in sorted(scores, key=lambda item: (item.case, TABLE_ORDER.index(item.region)))
    ]
    touched = {region: sorted(s.case for s in scores if s.empty and s.region == region) for region in TABLE_ORDER}
    values = {(item.case, item.region): item.metrics for item in scores}
    table = Scores(path, values, empty_rule, touched, et_threshold_ml)
    write_table(path, rows)
    write_json(path.with_suffix(".json"), describe(table))
    return table


def describe(scores: Scores) -> dict[str, Any]:
    """What the JSON beside a metrics.csv holds."""
    summary = {
        region: {metric: item._asdict() for metric, item in metrics.items()}
        for region, metrics in scores.summary().items()
    }
    return {
        "cases": len(scores.cases),
        "empty_rule": scores.empty_rule,
        "empty_rule_meaning": EMPTY_RULES[scores.empty_rule],
        "cases_with_an_empty_region": scores.touched,
        "et_threshold_ml": scores.et_threshold_ml,
        "interval": f"95% percentile bootstrap over patients, {RESAMPLES} resamples, seed 0",
        "summary": summary,
    }


def read_scores(run: str | Path) -> Scores:
    """The scores of a run's folder, or of a metrics.csv.

    Raises:
        UserError: if there is none, or it lacks a column.
    """
    path = Path(run, "metrics.csv") if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise UserError(f"{path} does not exist: evaluate the run first, or score its label maps (scripts.score).")
    rows = read_table(path)
    if not rows or not {"case", "region", *COLUMNS} <= set(rows[0]):
        raise UserError(f"{path} has the columns {list(rows[0]) if rows else []}: make it anew with scripts.score.")
    values = {(row["case"], row["region"]): {name: float(row[name] or "nan") for name in COLUMNS} for row in rows}
    beside = path.with_suffix(".json")
    about = json.loads(beside.read_text()) if beside.is_file() else {}
    return Scores(
        path,
        values,
        about.get("empty_rule", "brats"),
        about.get("cases_with_an_empty_region", {region: [] for region in TABLE_ORDER}),
        about.get("et_threshold_ml", 0.0),
    )


def caption(scores: Scores) -> str:
    """What every table must say: how many patients, the interval, the rule for empty regions and whom it touches."""
    touched = ", ".join(f"{region} {len(scores.touched.get(region, ()))}" for region in TABLE_ORDER)
    lines = [
        f"{len(scores.cases)} patients, mean [95% bootstrap interval over patients]; volume_error_ml is predicted "
        "less true volume.",
        f"Empty regions, rule {scores.empty_rule!r}: {EMPTY_RULES[scores.empty_rule]}. Patients touched: {touched}.",
    ]
    if scores.et_threshold_ml:
        lines.append(f"Enhancing tumour of less than {scores.et_threshold_ml} ml is counted as NCR.")
    return "\n".join(lines)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns, the first row being the header; all but the first column are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(c.rjust(w) if column else c.ljust(w) for column, (c, w) in enumerate(zip(row, widths)))
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def number(metric: str, value: float) -> str:
    return f"{value:.1f}" if metric in (*MILLIMETRES, "volume_error_ml") else f"{value:.3f}"


def cell(metric: str, item: Estimate) -> str:
    """Mean and interval, which a single patient does not have."""
    if item.low != item.low:
        return number(metric, item.mean)
    return f"{number(metric, item.mean)} [{number(metric, item.low)}, {number(metric, item.high)}]"


def summary_rows(scores: Scores) -> list[list[str]]:
    """The means of a run as cells: a header, then a line a metric and a column a region."""
    summary = scores.summary()
    lines = [[metric, *(cell(metric, summary[region][metric]) for region in TABLE_ORDER)] for metric in COLUMNS]
    return [["metric", *TABLE_ORDER], *lines]


def print_table(scores: Scores) -> None:
    """The means of a run, under what every table must say."""
    print(f"{caption(scores)}\n\n{format_table(summary_rows(scores))}")
