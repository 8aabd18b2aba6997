"""A page for any browser about a run, or about two: scores, a viewer of all patients, curves, and what made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.documents import REPORT
from scripts.errors import UserError
from scripts.evaluation.calibration_table import calibration_error, read_calibration
from scripts.evaluation.patients import patients_text
from scripts.evaluation.summary import score_rows
from scripts.folders.earlier_scores import REPORT_MARK
from scripts.labels import TABLE_ORDER
from scripts.report.alerts import Alerts
from scripts.report.comparison import compare_runs
from scripts.report.draft import Draft
from scripts.report.figures import Chart, calibration_figure, distribution_figures, history_figures
from scripts.report.layers import Patient, read_patient
from scripts.report.page import Page
from scripts.report.run_folder import STAGES, Run, open_run, read_record
from scripts.report.run_tables import (
    patient_table,
    pick_by_dice,
    pick_by_volume,
    region_table,
    summary_table,
    volume_rows,
)
from scripts.report.titles import RESEARCH
from scripts.training.history import read_history

MARKS = {".csv": "", ".json": REPORT_MARK}
PREDICTION = "Prediction"


def report(
    run: str | None = None,
    training: str | None = None,
    output: str | None = None,
    compare: str | None = None,
    volumes: bool = True,
) -> None:
    """Make an HTML page of a run: scores, a viewer of all patients, training curves, settings.

    Args:
        run: the output_dir of an evaluation, a cross-validation or an inference.
        training: the output_dir of the training; by default the run's own. Not with compare.
        output: the HTML file, by default report.html in the run's folder. Tables go beside it as CSV and JSON, and
            patients' volumes to the folder NAME_files, which belongs to the page.
        compare: instead of run, A,B: two runs of the same patients, side by side, with their paired differences. By
            default the page is comparison.html in the folder of A.
        volumes: False leaves NAME_files out, so that the viewer opens three patients only.

    Raises:
        UserError: if a folder holds neither evaluation.json nor inference.json, or a file that they name is missing, or
            options do not go together.
    """
    if (run is None) == (compare is None):
        raise UserError("give either --run DIR, or --compare DIR_A,DIR_B to see two runs side by side.")
    if training and compare:
        raise UserError(
            f"training is {training!r}, but a page of two runs shows no training: leave --training out, or make a page "
            "of one run with --run DIR."
        )
    target = compare_runs(compare, output, volumes) if compare else report_run(str(run), training, output, volumes)
    print(f"Report: {target}")


def report_run(folder: str, training: str | None, output: str | None, volumes: bool) -> Path:
    """Write the page of a run, and return its path."""
    target = Path(output) if output else Path(folder) / "report.html"
    history = Path(training or folder)
    if training and not (history / "history.csv").is_file():
        raise UserError(f"training {training} holds no history.csv: give the output_dir of a training.")
    records = {"training": read_record(history / "training.json")}
    records |= {stage: read_record(Path(folder) / f"{stage}.json") for stage in STAGES}
    run = open_run(folder)
    calibration = read_calibration(Path(folder) / "calibration.csv") if run.tables else []
    charts = charts_of(run, calibration, read_history(history / "history.csv"))
    alerts = Alerts(run)
    with Draft(target, REPORT, MARKS) as draft:
        for patient in read_patients(run):
            alerts.look_at(patient, PREDICTION)
            name = patient.name
            draft.add(patient, region_table(run, patient), alerts.reasons(name), run.source(name))
        picks = pick_by_dice(run) if run.tables else pick_by_volume(alerts.volumes_ml)
        page = Page(
            title=f"{'Evaluation' if run.tables else 'Label maps'}: {Path(folder).resolve().name}",
            subtitle=f"{patients_text(run.cases, run.patient)}. {made_by(run)}{RESEARCH}",
            alerts=alerts.sentences(),
            picks={title: list(run.cases).index(case) for title, case in picks.items()},
            summaries=[summary_table(scores) for scores in run.tables],
            patients=patient_table(run, alerts.volumes_ml),
            charts=charts,
            shown=draft.shown,
            records=records,
        )
        rows = score_rows(run.tables[0]) if run.tables else volume_rows(alerts.volumes_ml)
        draft.finish(page, rows, document_of(run, calibration, picks) | records, volumes)
    return target


def made_by(run: Run) -> str:
    """Date and weights of a run, as far as its record holds them."""
    weights = ", ".join(run.weights.values())
    date = str(run.record.get("date", ""))[:10]
    return (f"Predicted with {weights}" if weights else "Predicted") + (f" on {date}. " if date else ". ")


def read_patients(run: Run) -> Iterator[Patient]:
    """The patients of a run one after another, under a bar of progress."""
    for case in tqdm(run.cases, desc="Drawing patients", disable=None):
        prediction = {PREDICTION: run.prediction(case)}
        yield read_patient(run.cases[case], prediction, run.truth(case), run.entropy(case))


def charts_of(
    run: Run, calibration: Sequence[Mapping[str, str]], history: Sequence[Mapping[str, str]]
) -> dict[str, list[Chart]]:
    """Distributions over patients, calibration and training curves, by heading; what there is of them."""
    charts = {
        "Distribution over patients": distribution_figures(run.tables[0]) if run.tables else [],
        "Calibration": [calibration_figure(calibration)] if calibration else [],
        "Training": history_figures(history) if history else [],
    }
    return {heading: items for heading, items in charts.items() if items}


def document_of(run: Run, calibration: Sequence[Mapping[str, str]], picks: Mapping[str, str]) -> dict[str, Any]:
    """The report as JSON: summaries, calibration error, and who is inside the page."""
    errors = {region: calibration_error(calibration, region) for region in TABLE_ORDER} if calibration else None
    scores = [read_record(table.path.with_suffix(".json")) for table in run.tables]
    return {"scores": scores, "calibration_error": errors, "shown": picks}
