"""The page of two runs of the same patients: paired differences, and both label maps over each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from tqdm import tqdm

from scripts.documents import COMPARISON, some
from scripts.errors import UserError
from scripts.evaluation.compare import HEADER, common_cases, differences, paired_columns, row_cells
from scripts.evaluation.patients import patients_text
from scripts.evaluation.run_paths import run_paths
from scripts.evaluation.same_rules import check_same_rules
from scripts.evaluation.summary import Scores
from scripts.folders.earlier_scores import COMPARISON_MARK
from scripts.labels import REGION_COLOURS, TABLE_ORDER
from scripts.report.alerts import Alerts
from scripts.report.draft import Draft
from scripts.report.figures import Chart, render_chart
from scripts.report.layers import Patient, read_patient
from scripts.report.page import Cell, Page, Row, Table
from scripts.report.run_folder import Run, open_run
from scripts.report.run_tables import middle_and_ends, score_cell
from scripts.report.titles import METRICS, REGION_TITLES, RESEARCH, Column

MARKS = {".csv": HEADER, ".json": COMPARISON_MARK}
SIDES = ("A", "B")
TITLES = METRICS | {
    "volume_error_ml": Column("Volume error (ml), without sign", "Predicted minus true volume, by size.")
}
NOTES = (
    "Means of both runs and their paired difference, with its 95% bootstrap interval over patients in brackets. A line "
    "counts the patients whom both runs score.",
    "p is of Wilcoxon's signed-rank test, two-sided. It is not corrected for the number of lines.",
)


def compare_runs(compare: str, output: str | None, volumes: bool) -> Path:
    """Write the page of two runs, ``A,B``, and return its path.

    Raises:
        UserError: if these are not two scored runs of the same patients.
    """
    runs = open_sides([folder.strip() for folder in run_paths(str(compare))])
    target = Path(output) if output else runs["A"].folder / "comparison.html"
    tables = [run.tables[0] for run in runs.values()]
    doubts = check_same_rules(tables)
    cases = [case for case in common_cases(*tables) if all(case in run.cases for run in runs.values())]
    if not cases:
        raise UserError(f"compare {compare}: the runs have no patient in common whose files are all there.")
    others = sorted({case for table in tables for case in table.cases} - set(cases))
    known = tables[0].patient | tables[1].patient
    if others:
        doubts.append(
            f"Left out {patients_text(others, known)}, not in both runs or without their files: {some(others)}."
        )
    rows = differences(tables[0], tables[1], cases)
    gains = {case: dice_difference(tables, case, "WT") for case in cases}
    picks = middle_and_ends(sorted(cases, key=lambda case: -gains[case]), ["A gains most", "Median", "A loses most"])
    alerts = {side: Alerts(run) for side, run in runs.items()}
    with Draft(target, COMPARISON, MARKS) as draft:
        for patient in read_pairs(runs, cases):
            for side in runs:
                alerts[side].look_at(patient, f"Prediction of {side}")
            name = patient.name
            reasons = [f"{side}: {text}" for side in runs for text in alerts[side].reasons(name)]
            draft.add(patient, paired_region_table(tables, name), reasons, runs["A"].source(name))
        page = Page(
            title=f"Comparison: {' and '.join(run.folder.resolve().name for run in runs.values())}",
            subtitle=f"A: {runs['A'].folder}, B: {runs['B'].folder}. {patients_text(cases, known)}. {RESEARCH}",
            alerts=doubts + [f"{side}: {text}" for side in runs for text in alerts[side].sentences()],
            picks={f"{title}: {case}, Dice {gains[case]:+.3f}": cases.index(case) for title, case in picks.items()},
            summaries=[paired_summary_table(rows)],
            patients=paired_patient_table(tables, cases),
            charts={"Dice of each patient": [scatter(tables, cases, region) for region in TABLE_ORDER]},
            shown=draft.shown,
            records={f"{side}: {run.folder.name}": run.record for side, run in runs.items()},
        )
        draft.finish(page, rows, {"runs": [str(run.folder) for run in runs.values()], "cases": cases}, volumes)
    return target


def open_sides(folders: Sequence[str]) -> dict[str, Run]:
    """The runs A and B. Raises UserError if these are not two scored runs."""
    if len(folders) != 2:
        raise UserError(f"compare is {','.join(folders)!r}, expected two folders, DIR_A,DIR_B.")
    runs = {side: open_run(folder) for side, folder in zip(SIDES, folders)}
    if unscored := [run.folder for run in runs.values() if not run.tables]:
        raise UserError(f"{unscored[0]} has no scores: evaluate it, or score its label maps (python -m scripts score).")
    return runs


def read_pairs(runs: dict[str, Run], cases: Sequence[str]) -> Iterator[Patient]:
    """The patients of both runs one after another, with the label maps of both."""
    first = runs["A"]
    for case in tqdm(cases, desc="Drawing patients", disable=None):
        predictions = {f"Prediction of {side}": run.prediction(case) for side, run in runs.items()}
        yield read_patient(first.cases[case], predictions, first.truth(case))


def paired_summary_table(rows: Sequence[dict]) -> Table:
    """A line a region and metric: how many patients, both means, the difference with its interval, and p."""
    lines = [Row(TITLES[row["metric"]], [Cell(text) for text in row_cells(row)], region=row["region"]) for row in rows]
    titles = ("", "Patients", "A", "B", "A minus B", "p", "A better", "B better", "Equal")
    return Table([Column(title) for title in titles], lines, NOTES, REGION_TITLES)


def paired_patient_table(tables: Sequence[Scores], cases: Sequence[str]) -> Table:
    """A line a patient and region: Dice, surface distance and lesion-wise Dice of both, and their difference."""
    metrics = ("dice", "hd95", "lesion_dice")
    columns = [Column("Patient")]
    for metric in metrics:
        title, meaning = METRICS[metric]
        columns += [Column(f"{title}: {which}", meaning) for which in ("A", "B", "A minus B")]
    rows = []
    for region in TABLE_ORDER:
        for place, case in enumerate(cases):
            cells = []
            for metric in metrics:
                a, b = (table.values[case, region][metric] for table in tables)
                cells += [score_cell(metric, value) for value in (a, b, a - b)]
            rows.append(Row(Column(case), cells, place, region))
    return Table(columns, rows, regions=REGION_TITLES)


def scatter(tables: Sequence[Scores], cases: Sequence[str], region: str) -> Chart:
    """Dice of A against Dice of B, a mark a patient: above the line A is better."""
    a, b = paired_columns(tables[0], tables[1], cases, region, "dice")

    def draw(axis: Axes) -> None:
        axis.plot([0, 1], [0, 1], color="#666666", linewidth=1)
        axis.scatter(b, a, s=36, color=REGION_COLOURS[region], alpha=0.7, zorder=3)
        axis.set(xlabel="Dice of B", ylabel="Dice of A", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.grid(alpha=0.3)

    better = f"A is better on {int(np.sum(a > b))} of {len(a)} patients, B on {int(np.sum(a < b))}"
    return render_chart(draw, f"{REGION_TITLES[region]}: {better}", f"Dice of A against Dice of B; {better}")


def dice_difference(tables: Sequence[Scores], case: str, region: str) -> float:
    """Dice of A minus Dice of B; 0 where one has none."""
    a, b = (table.values[case, region]["dice"] for table in tables)
    return 0.0 if a != a or b != b else a - b


def paired_region_table(tables: Sequence[Scores], case: str) -> Table:
    """A line a region of one patient: Dice and surface distance of both runs."""
    metrics = ("dice", "hd95")
    rows = []
    for region in TABLE_ORDER:
        values = [(name, table.values[case, region][name]) for name in metrics for table in tables]
        rows.append(Row(Column(REGION_TITLES[region]), [score_cell(name, value) for name, value in values]))
    return Table([Column(""), *(Column(f"{METRICS[name].title}: {side}") for name in metrics for side in SIDES)], rows)
