"""Tables of a run on the report's page, and which patients to look at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.documents import some
from scripts.evaluation.metrics import COLUMNS
from scripts.evaluation.patients import patients_text
from scripts.evaluation.summary import Scores, number, summary_rows
from scripts.labels import TABLE_ORDER
from scripts.report.layers import Patient
from scripts.report.page import Cell, Row, Table
from scripts.report.run_folder import Run
from scripts.report.titles import METRICS, REGION_MEANINGS, REGION_TITLES, Column


def summary_table(scores: Scores) -> Table:
    """Means with intervals, a line a metric."""
    rows = [Row(METRICS[name], [Cell(text) for text in cells]) for name, *cells in summary_rows(scores)[1:]]
    columns = [Column(""), *(Column(REGION_TITLES[name], REGION_MEANINGS[name]) for name in TABLE_ORDER)]
    return Table(columns, rows, notes_of(scores))


def notes_of(scores: Scores) -> list[str]:
    """What to know of a table of means: patients, interval, how empty regions count."""
    rule = scores.empty_rule_meaning
    notes = [
        f"Means of {patients_text(scores.cases, scores.patient)}. In brackets: 95% bootstrap interval over patients.",
        f"{rule[0].upper()}{rule[1:]}.",
    ]
    for region in TABLE_ORDER:
        if empty := scores.empty_cases.get(region):
            notes.append(f"{REGION_TITLES[region]} is empty in the truth or in the prediction of {some(empty)}.")
    if scores.et_threshold_ml:
        notes.append(f"Enhancing tumour of less than {scores.et_threshold_ml} ml is counted as necrotic core.")
    return notes


def patient_table(run: Run, volumes_ml: Mapping[str, Mapping[str, float]]) -> Table:
    """A line a patient with all volumes; of a scored run, a line a patient and region with scores and volume."""
    numbers = {case: place for place, case in enumerate(run.cases)}
    if not run.tables:
        columns = [Column("Patient"), *(Column(f"{REGION_TITLES[name]}, ml") for name in TABLE_ORDER)]
        lines = [
            Row(Column(case), [Cell(f"{found[name]:.1f}", found[name]) for name in TABLE_ORDER], numbers[case])
            for case, found in volumes_ml.items()
        ]
        return Table(columns, lines)
    values = run.tables[0].values
    rows = []
    for region in TABLE_ORDER:
        for case in run.cases:
            cells = [score_cell(name, values[case, region][name]) for name in COLUMNS]
            size = volumes_ml[case][region]
            rows.append(Row(Column(case), [*cells, Cell(f"{size:.1f}", size)], numbers[case], region))
    columns = [Column("Patient"), *(METRICS[name] for name in COLUMNS), Column("Predicted volume (ml)")]
    return Table(columns, rows, regions=REGION_TITLES)


def region_table(run: Run, patient: Patient) -> Table:
    """A line a region of one patient: predicted volume, and of a scored run its main scores."""
    metrics = ("dice", "hd95", "volume_error_ml", "lesion_dice") if run.tables else ()
    rows = []
    sizes = patient.volumes_ml(patient.layers[0].title)
    for region in TABLE_ORDER:
        scores = [score_cell(name, run.tables[0].values[patient.name, region][name]) for name in metrics]
        rows.append(
            Row(Column(REGION_TITLES[region], REGION_MEANINGS[region]), [Cell(f"{sizes[region]:.1f}"), *scores])
        )
    columns = [Column(""), Column("Predicted volume (ml)"), *(METRICS[name] for name in metrics)]
    return Table(columns, rows)


def score_cell(metric: str, value: float) -> Cell:
    """A score; where there is none, nothing."""
    return Cell("–") if value != value else Cell(number(metric, value), value)


def volume_rows(volumes_ml: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Volume of each region in ml, a row a case."""
    return [
        {"case": case} | {f"{name}_ml": f"{found[name]:.3f}" for name in TABLE_ORDER}
        for case, found in volumes_ml.items()
    ]


def pick_by_dice(run: Run) -> dict[str, str]:
    """Median, worst and best patient by whole-tumour Dice, by title."""
    picked = middle_and_ends(order_by_dice(run.tables[0], list(run.cases)), ["Best", "Median", "Worst"])
    values = run.tables[0].values
    return {f"{title}: {case}, Dice {values[case, 'WT']['dice']:.3f}": case for title, case in picked.items()}


def order_by_dice(scores: Scores, cases: Sequence[str]) -> list[str]:
    """The cases from the best whole-tumour Dice to the worst, without those that have none."""
    dice = {case: scores.values[case, "WT"]["dice"] for case in cases}
    return sorted((case for case in dice if dice[case] == dice[case]), key=lambda case: -dice[case])


def pick_by_volume(volumes_ml: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Patients with the median, smallest and largest whole tumour, by title."""
    order = sorted(volumes_ml, key=lambda case: -volumes_ml[case]["WT"])
    picked = middle_and_ends(order, ["Largest", "Median", "Smallest"])
    return {f"{title} tumour: {case}, {volumes_ml[case]['WT']:.1f} ml": case for title, case in picked.items()}


def middle_and_ends(order: Sequence[str], titles: Sequence[str]) -> dict[str, str]:
    """Middle, last and first by title; with fewer than three none is chosen twice."""
    first, middle, last = titles
    chosen = {median_of(order): middle, order[-1]: last, order[0]: first} if order else {}  # of equal ones, the later
    return {title: case for title in (middle, last, first) for case in chosen if chosen[case] == title}


def median_of(order: Sequence[str]) -> str:
    """The case in the middle; of an even number, the later of the two."""
    return order[len(order) // 2]
