"""One page about a run, which needs no network: scores, failures, training curves, and what produced them.

python -m scripts report --run DIR [--training DIR] [--output FILE]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.errors import UserError
from scripts.evaluation.calibration_table import read_calibration
from scripts.evaluation.metrics import COLUMNS
from scripts.evaluation.pairs import class_of_value
from scripts.evaluation.summary import Scores
from scripts.files import check_output, write_json, write_table, write_text
from scripts.labels import TABLE_ORDER
from scripts.report.figures import calibration_error, calibration_figure, distribution_figures, history_figures
from scripts.report.images import region_volumes
from scripts.report.mosaic import Mosaic, draw_mosaic
from scripts.report.page import (
    build_page,
    figure_section,
    mosaic_section,
    patient_section,
    provenance_section,
    summary_section,
)
from scripts.report.run_folder import STAGES, cases_of_run, read_record, run_record, scores_of
from scripts.training.history import read_history

__all__ = ["report"]

OWN = ("report.html", "report.csv", "report.json")


def report(run: str, training: str | None = None, output: str | None = None) -> None:
    """Make one HTML page of a run: scores, patients to look at, training curves, settings.

    Args:
        run: the output_dir of an evaluation, a cross-validation or an inference.
        training: the output_dir of the training; by default the run's own.
        output: the HTML file, by default report.html in the run's folder; the tables go beside it as CSV and JSON.

    Raises:
        UserError: if the folder holds neither evaluation.json nor inference.json, or a file that they name is missing.
    """
    folder, history = Path(run), Path(training or run)
    target = Path(output) if output else folder / "report.html"
    if training and not (history / "history.csv").is_file():
        raise UserError(f"training {training} holds no history.csv: give the output_dir of a training.")
    records = {"training": read_record(history / "training.json")}
    records |= {stage: read_record(folder / f"{stage}.json") for stage in STAGES}
    record = run_record(folder)
    cases, class_of = cases_of_run(run, record), class_of_value(record.get("label_values"))
    check_output(str(target), "output", ".html", beside={".csv": "WT_ml", ".json": "calibration_error"}, own=OWN)
    tables = scores_of(folder, cases, record)
    rows = score_rows(tables[0]) if tables else region_volumes(cases.values(), class_of)
    shown = pick_by_dice(tables[0], cases) if tables else pick_by_volume(rows)
    drawn = tqdm(shown.values(), desc="Drawing patients", disable=None)
    mosaics = {case: mosaic_of(cases[case], class_of) for case in drawn}
    calibration = read_calibration(folder / "calibration.csv") if tables else []
    sections = [
        *score_sections(tables, calibration, {title: (case, mosaics[case]) for title, case in shown.items()}),
        patient_section(rows),
        *history_sections(read_history(history / "history.csv")),
        provenance_section(records),
    ]
    title = f"{'Evaluation' if tables else 'Label maps'}: {folder.resolve().name}"
    subtitle = f"{len(cases)} patients. Research only, not for clinical use."
    write_text(target, build_page(title, subtitle, sections, mosaics))
    write_table(target.with_suffix(".csv"), rows)
    errors = {region: calibration_error(calibration, region) for region in TABLE_ORDER} if calibration else None
    scores = [read_record(table.path.with_suffix(".json")) for table in tables]
    write_json(target.with_suffix(".json"), {"scores": scores, "calibration_error": errors, "shown": shown, **records})
    print(f"Report of {len(cases)} patient{'s'[: len(cases) != 1]}: {target}")


def score_sections(
    tables: Sequence[Scores], calibration: Sequence[Mapping[str, str]], mosaics: Mapping[str, tuple[str, Mosaic]]
) -> list[str]:
    """The first sections of the page: means, patients to look at, distributions, calibration; what there is of them."""
    sections = [summary_section(tables)] if tables else []
    sections.append(mosaic_section(mosaics))
    if tables:
        sections.append(figure_section("Distribution over patients", distribution_figures(tables[0])))
    if calibration:
        sections.append(figure_section("Calibration", [calibration_figure(calibration)]))
    return sections


def history_sections(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The section of the training curves, if there is a history."""
    return [figure_section("Training", history_figures(rows))] if rows else []


def score_rows(scores: Scores) -> list[dict[str, Any]]:
    """Every metric of each case and region, as text."""
    return [
        {"case": case, "region": region} | {name: f"{scores.values[case, region][name]:.6f}" for name in COLUMNS}
        for case in scores.cases
        for region in TABLE_ORDER
    ]


def pick_by_dice(scores: Scores, cases: Mapping[str, Any]) -> dict[str, str]:
    """Best, median and worst patient by whole-tumour Dice, by title."""
    dice = {case: scores.values[case, "WT"]["dice"] for case in scores.cases if case in cases}
    order = sorted((case for case in dice if dice[case] == dice[case]), key=lambda case: -dice[case])
    picked = ends_and_middle(order, ["Best", "Median", "Worst"])
    return {f"{title}, whole-tumour Dice {dice[case]:.3f}": case for title, case in picked.items()}


def pick_by_volume(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Patients with the largest, median and smallest whole tumour, by title."""
    order = sorted(rows, key=lambda row: -float(row["WT_ml"]))
    picked = ends_and_middle(order, ["Largest", "Median", "Smallest"])
    return {f"{title} tumour, {row['WT_ml']} ml": row["case"] for title, row in picked.items()}


def ends_and_middle(order: Sequence[Any], titles: Sequence[str]) -> dict[str, Any]:
    """First, middle and last by title; with fewer than three none is chosen twice."""
    first, middle, last = titles
    chosen = {len(order) // 2: middle, len(order) - 1: last, 0: first}  # of equal places, the later title
    return {chosen[place]: order[place] for place in sorted(chosen)} if order else {}


def mosaic_of(case: Mapping[str, Any], class_of: Mapping[int, int]) -> Mosaic:
    """The images of one patient, from the files that its record names."""
    prediction = Path(case["prediction"])
    entropy = prediction.with_name(prediction.name.replace("_seg.nii", "_entropy.nii"))
    channel = case.get("channels", {}).get("image")
    return draw_mosaic(
        Path(case["image"]),
        prediction,
        Path(case["label"]) if "label" in case else None,
        entropy if entropy.is_file() else None,
        channel[0] if channel else None,
        class_of,
    )
