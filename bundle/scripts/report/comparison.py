"""The page of two runs of the same patients: paired differences, and both label maps over each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from tqdm import tqdm

from scripts.errors import UserError
from scripts.evaluation.compare import EXPLANATION, check_same_rules, common_cases, difference_row
from scripts.evaluation.metrics import COLUMNS
from scripts.evaluation.summary import Estimate, Scores, cell, number
from scripts.labels import REGION_COLOURS, TABLE_ORDER
from scripts.report.draft import Draft
from scripts.report.figures import Chart, render_chart
from scripts.report.layers import Patient, read_patient
from scripts.report.page import Cell, Column, Page, Row, Table
from scripts.report.run_folder import Run, open_run
from scripts.report.words import METRICS, REGION_TITLES

__all__ = ["compare_runs"]

OWN = ("comparison.html", "comparison.csv", "comparison.json")
SIDES = ("A", "B")


def compare_runs(compare: str, output: str | None, volumes: bool) -> Path:
    """Write the page of two runs, ``A,B``, and return its path.

    Raises:
        UserError: if these are not two scored runs of the same patients.
    """
    folders = str(compare).split(",")
    if len(folders) != 2:
        raise UserError(f"compare is {compare!r}, expected two folders, DIR_A,DIR_B.")
    target = Path(output) if output else Path(folders[0]) / "comparison.html"
    runs = {side: open_run(folder) for side, folder in zip(SIDES, folders)}
    if unscored := [run.folder for run in runs.values() if not run.tables]:
        raise UserError(f"{unscored[0]} has no scores: evaluate it, or score its label maps (python -m scripts score).")
    tables = [run.tables[0] for run in runs.values()]
    check_same_rules(tables)
    cases = [case for case in common_cases(*tables) if all(case in run.cases for run in runs.values())]
    rows = differences(tables, cases)
    gains = {case: dice_difference(tables, case, "WT") for case in cases}
    order = sorted(cases, key=lambda case: gains[case])
    picks = {"A is worst": order[0], "A is best": order[-1], "Median": order[len(order) // 2]}
    with Draft(target, OWN, "runs") as draft:
        for patient in read_pairs(runs, cases):
            draft.add(patient, [dice_sentence(tables, patient.name)])
        page = Page(
            title=f"Comparison: {' and '.join(run.folder.resolve().name for run in runs.values())}",
            subtitle=f"A: {folders[0]}, B: {folders[1]}. {len(cases)} patients. Research only, not for clinical use.",
            alerts=[],
            picks={f"{title}: {case}, {gains[case]:+.3f}": cases.index(case) for title, case in picks.items()},
            summaries=[summary_table(rows)],
            patients=patient_table(tables, cases),
            charts={"Dice of each patient": [scatter(tables, cases, region) for region in TABLE_ORDER]},
            shown=draft.shown,
            records={f"{side}: {run.folder.name}": run.record for side, run in runs.items()},
        )
        draft.finish(page, rows, {"runs": folders, "cases": cases}, volumes)
    return target


def differences(tables: Sequence[Scores], cases: Sequence[str]) -> list[dict]:
    """Every metric of each region: means of both runs and their paired difference."""
    keys = [(region, metric) for region in TABLE_ORDER for metric in COLUMNS]
    bar = tqdm(keys, desc="Comparing", disable=None, leave=False)
    return [difference_row(tables[0], tables[1], cases, region, metric) for region, metric in bar]


def read_pairs(runs: dict[str, Run], cases: Sequence[str]) -> Iterator[Patient]:
    """The patients of both runs one after another, with the label maps of both."""
    first = runs["A"]
    for case in tqdm(cases, desc="Drawing patients", disable=None):
        predictions = {f"Prediction of {side}": run.prediction(case) for side, run in runs.items()}
        yield read_patient(first.cases[case], predictions, first.truth(case))


def summary_table(rows: Sequence[dict]) -> Table:
    """A line a region and metric: both means, the difference with its interval, p, and how many patients."""
    lines = []
    for row in rows:
        metric, difference = row["metric"], Estimate(row["difference"], row["low"], row["high"], row["patients"])
        texts = [*(number(metric, row[name]) for name in ("mean_a", "mean_b")), cell(metric, difference)]
        texts += [f"{row['p']:.3f}", *(str(row[name]) for name in ("wins", "losses", "ties"))]
        head = Column(f"{row['region']}: {METRICS[metric].title}", METRICS[metric].meaning)
        lines.append(Row(head, [Cell(text) for text in texts]))
    titles = ("", "A", "B", "A minus B", "p", "A better", "B better", "Equal")
    return Table([Column(title) for title in titles], lines, [EXPLANATION])


def patient_table(tables: Sequence[Scores], cases: Sequence[str]) -> Table:
    """A line a patient and region: Dice, surface distance and lesion-wise Dice of both, and their difference."""
    metrics = ("dice", "hd95", "lesion_dice")
    columns = [Column("Patient")]
    for metric in metrics:
        columns += [Column(f"{METRICS[metric].title}: {which}") for which in ("A", "B", "A minus B")]
    rows = []
    for region in TABLE_ORDER:
        for place, case in enumerate(cases):
            cells = []
            for metric in metrics:
                a, b = (table.values[case, region][metric] for table in tables)
                cells += [Cell(number(metric, value), None if value != value else value) for value in (a, b, a - b)]
            rows.append(Row(Column(case), cells, place, region))
    return Table(columns, rows, regions={name: REGION_TITLES[name] for name in TABLE_ORDER})


def scatter(tables: Sequence[Scores], cases: Sequence[str], region: str) -> Chart:
    """Dice of A against Dice of B, a mark a patient: above the line A is better."""
    a, b = (table.column(region, "dice", cases) for table in tables)

    def draw(axis: Axes) -> None:
        axis.plot([0, 1], [0, 1], color="#666666", linewidth=1)
        axis.scatter(b, a, s=24, color=REGION_COLOURS[region], edgecolor="white", linewidth=0.5, zorder=3)
        axis.set(xlabel="Dice of B", ylabel="Dice of A", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.grid(alpha=0.3)

    better = f"A is better on {int(np.sum(a > b))} of {len(cases)} patients, B on {int(np.sum(a < b))}"
    return render_chart(draw, f"{REGION_TITLES[region]}: {better}", f"Dice of A against Dice of B; {better}")


def dice_difference(tables: Sequence[Scores], case: str, region: str) -> float:
    """Dice of A minus Dice of B; 0 where one has none."""
    a, b = (table.values[case, region]["dice"] for table in tables)
    return 0.0 if a != a or b != b else a - b


def dice_sentence(tables: Sequence[Scores], case: str) -> str:
    """Dice of both runs by region."""
    parts = []
    for region in TABLE_ORDER:
        a, b = (table.values[case, region]["dice"] for table in tables)
        parts.append(f"{region} {a:.3f} and {b:.3f}")
    return f"Dice of A and B: {', '.join(parts)}."
