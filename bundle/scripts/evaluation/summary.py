"""Tables of scores: writing, reading, and means with 95% bootstrap intervals over patients."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from scripts.documents import number_or_nan
from scripts.errors import UserError
from scripts.evaluation.metrics import COLUMNS, ERRORS
from scripts.evaluation.patients import by_patient, count_patients, mean_of, patients_text
from scripts.files import format_table, read_json, read_own_json, read_table, write_json, write_table
from scripts.labels import EMPTY_RULES, TABLE_ORDER

RESAMPLES = 10_000
OPTIONAL: dict[str, Any] = {  # what ``Scores`` takes as it is from the JSON beside a metrics.csv, which may lack it
    "et_threshold_ml": (int, float),
    "smallest_part_ml": (int, float, NoneType),
    "truth": dict,
    "truth_values": (str, list, NoneType),
    **dict.fromkeys(("patient", "prediction_checksum", "truth_checksum"), dict),
}
ABOUT = {
    "empty_rule?": (str, NoneType),
    "cases_with_an_empty_region?": {f"{region}?": [str] for region in TABLE_ORDER},
    **{f"{key}?": form for key, form in OPTIONAL.items()},
}
UNKNOWN_RULE = "how empty regions count is not known, since no JSON file beside the table says it"


class CaseScore(NamedTuple):
    """Metrics of one region of one case; ``empty`` where the region is empty in truth or prediction."""

    case: str
    region: str
    metrics: dict[str, float]
    empty: bool


class Estimate(NamedTuple):
    """A mean over this many patients and its 95% interval; NaN where there is none."""

    mean: float
    low: float
    high: float
    patients: int


@dataclass
class Scores:
    """A metrics.csv: ``values[case, region][metric]``, and what its JSON says of empty regions and of the truth."""

    path: Path
    values: dict[tuple[str, str], dict[str, float]]
    empty_rule: str | None  # None: not known
    empty_cases: dict[str, list[str]]
    et_threshold_ml: float = 0.0
    smallest_part_ml: float | None = None  # smaller ones are not in the label maps; None: not known
    truth: dict[str, str] = field(default_factory=dict)  # file of each case
    truth_values: str | list[int] | None = None  # what the values in these files mean
    patient: dict[str, str] = field(default_factory=dict)  # of each case, where a datalist said it
    prediction_checksum: dict[str, int] = field(default_factory=dict)  # of each label map's network classes
    truth_checksum: dict[str, int] = field(default_factory=dict)

    @property
    def empty_rule_meaning(self) -> str:
        return EMPTY_RULES.get(self.empty_rule or "", UNKNOWN_RULE)

    @property
    def cases(self) -> list[str]:
        return sorted({case for case, _ in self.values})

    def column(self, region: str, metric: str, cases: Sequence[str] | None = None) -> np.ndarray:
        """One metric of one region, a value a patient (see ``by_patient``), of these cases; by default of all."""
        cases = self.cases if cases is None else cases
        return by_patient(cases, [self.values[case, region][metric] for case in cases], self.patient)

    @cached_property
    def summary(self) -> dict[str, dict[str, Estimate]]:
        """Estimate by region and metric. A thousand patients take half a minute."""
        found: dict[str, dict[str, Estimate]] = {region: {} for region in TABLE_ORDER}
        keys = [(region, metric) for region in TABLE_ORDER for metric in COLUMNS]
        for region, metric in tqdm(keys, desc="Bootstrap", disable=None, leave=False):
            found[region][metric] = estimate(self.column(region, metric))
        return found


def estimate(values: np.ndarray) -> Estimate:
    """Mean and percentile bootstrap interval of (N,) values, without NaN (Efron and Tibshirani 1993)."""
    from scipy.stats import bootstrap  # takes half a second, which processes that score do not need to spend

    values, mean = values[~np.isnan(values)], mean_of(values)
    if len(values) < 2:
        return Estimate(mean, np.nan, np.nan, len(values))
    result = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0)
    low, high = result.confidence_interval
    return Estimate(mean, float(low), float(high), len(values))


def write_scores(path: Path, scores: Sequence[CaseScore], empty_rule: str | None, **about: Any) -> Scores:
    """Write the CSV (columns case, region, and metrics.COLUMNS; empty for NaN) and the JSON beside it.

    Args:
        path: the CSV.
        scores: of all cases and regions.
        empty_rule: for regions that are empty in truth or prediction.
        about: what ``Scores`` holds beyond these.
    """
    empty_cases = {region: sorted(s.case for s in scores if s.empty and s.region == region) for region in TABLE_ORDER}
    values = {(item.case, item.region): item.metrics for item in scores}
    table = Scores(path, values, empty_rule, empty_cases, **about)
    write_json(path.with_suffix(".json"), describe(table))  # takes seconds
    write_table(path, score_rows(table))  # last: where there is a table, the work is done
    return table


def score_rows(scores: Scores) -> list[dict[str, str]]:
    """Every metric of each case and region, as text; empty for NaN."""
    return [
        {"case": case, "region": region}
        | {name: "" if np.isnan(value := scores.values[case, region][name]) else f"{value:.6f}" for name in COLUMNS}
        for case in scores.cases
        for region in TABLE_ORDER
    ]


def check_same_patients(path: Path, cases: Collection[str]) -> None:
    """Check that a metrics.csv in the folder of an evaluation will score its patients.

    Raises:
        UserError: if it would score other ones.
    """
    record = path.parent / "evaluation.json"
    if not (path.name.startswith("metrics") and record.is_file()):
        return
    if (document := read_own_json(record, "output", {"cases": [{"case": str}]})) is None:
        return
    if others := sorted({case["case"] for case in document["cases"]} ^ set(cases)):
        raise UserError(
            f"output is '{path}', the scores of an evaluation of other patients ({record}; {', '.join(others[:5])}): "
            "give another path."
        )


def describe(scores: Scores) -> dict[str, Any]:
    """What the JSON beside a metrics.csv holds."""
    summary = {
        region: {metric: item._asdict() for metric, item in metrics.items()}
        for region, metrics in scores.summary.items()
    }
    return {
        "cases": len(scores.cases),
        "patients": count_patients(scores.cases, scores.patient),
        "patient": scores.patient,
        "empty_rule": scores.empty_rule,
        "empty_rule_meaning": scores.empty_rule_meaning,
        "cases_with_an_empty_region": scores.empty_cases,
        "et_threshold_ml": scores.et_threshold_ml,
        "smallest_part_ml": scores.smallest_part_ml,
        "truth": scores.truth,
        "truth_values": scores.truth_values,
        "prediction_checksum": scores.prediction_checksum,
        "truth_checksum": scores.truth_checksum,
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
        raise UserError(
            f"{path} does not exist: evaluate the run first, or score its label maps (python -m scripts score)."
        )
    rows = read_table(path, {"case": str, "region": str, **dict.fromkeys(COLUMNS, number_or_nan)})
    values = {(row["case"], row["region"]): {name: number_or_nan(row[name]) for name in COLUMNS} for row in rows}
    if not rows or len(values) < len(rows) or values.keys() != {(case, r) for case, _ in values for r in TABLE_ORDER}:
        expected = f"each case once with each of {', '.join(TABLE_ORDER)}"
        raise UserError(
            f"{path} has {len(rows)} rows, expected {expected}: make it again with python -m scripts score."
        )
    beside = path.with_suffix(".json")
    about = read_json(beside, "the record", ABOUT) if beside.is_file() else {}
    if (rule := about.get("empty_rule")) not in (None, *EMPTY_RULES):
        raise UserError(f"{beside}: empty_rule is {rule!r}, expected one of {sorted(EMPTY_RULES)}: score again.")
    empty = about.get("cases_with_an_empty_region", {})
    return Scores(
        path, values, rule, {r: empty.get(r, []) for r in TABLE_ORDER}, **{k: about[k] for k in OPTIONAL if k in about}
    )


def caption(scores: Scores) -> str:
    """The text above every table: number of patients, interval, rule for empty regions, and how many have one."""
    counts = ", ".join(f"{region} {len(scores.empty_cases.get(region, ()))}" for region in TABLE_ORDER)
    known = (f", rule {scores.empty_rule!r}", f" Cases with an empty region: {counts}.")
    rule, empty = known if scores.empty_rule else ("", "")
    lines = [
        f"{patients_text(scores.cases, scores.patient)}, mean [95% bootstrap interval over patients]; "
        "volume_error_ml is predicted minus true volume.",
        f"Empty regions{rule}: {scores.empty_rule_meaning}.{empty}",
    ]
    if scores.smallest_part_ml:
        lines.append(f"Label maps without parts below {scores.smallest_part_ml} ml.")
    if scores.et_threshold_ml:
        lines.append(f"Enhancing tumour of less than {scores.et_threshold_ml} ml is counted as NCR.")
    return "\n".join(lines)


def number(metric: str, value: float) -> str:
    """A metric's value as text: one decimal in mm and ml, else three."""
    return f"{value:.1f}" if metric in ERRORS else f"{value:.3f}"


def cell(metric: str, item: Estimate) -> str:
    """Mean and interval as text; a single patient has no interval."""
    if item.low != item.low:
        return number(metric, item.mean)
    return f"{number(metric, item.mean)} [{number(metric, item.low)}, {number(metric, item.high)}]"


def summary_rows(scores: Scores) -> list[list[str]]:
    """The means of a run as cells: a header, then one row a metric with one column a region."""
    summary = scores.summary
    rows = [[metric, *(cell(metric, summary[region][metric]) for region in TABLE_ORDER)] for metric in COLUMNS]
    return [["metric", *TABLE_ORDER], *rows]


def print_table(scores: Scores) -> None:
    """Print the means of a run under their caption."""
    print(f"{caption(scores)}\n\n{format_table(summary_rows(scores))}")
