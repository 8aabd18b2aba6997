"""One page about a run, which needs no network: what it scored, on whom it failed, how it was trained, what made it.

python -m scripts.report --run DIR [--training DIR] [--output FILE]
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.command import run_command
from scripts.errors import UserError
from scripts.figures import calibration_error, calibration_figure, distribution_figures, history_figures
from scripts.labels import TABLE_ORDER
from scripts.metrics import COLUMNS
from scripts.mosaic import Mosaic, draw_mosaic
from scripts.page import (
    build_page,
    figure_section,
    mosaic_section,
    patient_section,
    provenance_section,
    summary_section,
)
from scripts.records import check_output, read_table, write_json, write_table, write_text
from scripts.score import BRATS_VALUES
from scripts.summary import Scores, read_scores
from scripts.volumes import read_volumes

__all__ = ["class_of_value", "report", "run_record"]

STAGES = ("evaluation", "inference")


def report(run: str, training: str | None = None, output: str | None = None) -> None:
    """Write report.html, and report.csv (patient by patient) and report.json beside it.

    Args:
        run: the output_dir of an evaluation, a cross-validation, or an inference.
        training: the output_dir of the training; by default the run's own.
        output: the HTML file; by default report.html in the run's folder.

    Raises:
        UserError: if the folder holds neither evaluation.json nor inference.json, or files that they name have gone.
    """
    folder, history = Path(run), Path(training or run)
    target = Path(output) if output else folder / "report.html"
    if output:
        check_output(output, "output", ".html")
    about = {
        "training": read_json_file(history / "training.json"),
        **{stage: read_json_file(folder / f"{stage}.json") for stage in STAGES},
    }
    if training and not (history / "history.csv").is_file():
        raise UserError(f"training {training} holds no history.csv: give the output_dir of a training.")
    done = run_record(folder)
    cases, values = find_files(run, done), class_of_value(done)
    tables = scores_of(folder, cases)
    rows = score_rows(tables[0]) if tables else read_volumes(cases.values(), values)
    picks = pick_by_dice(tables[0], cases) if tables else pick_by_volume(rows)
    mosaics = {case: mosaic_of(cases[case], values) for case in picks.values()}
    calibration = read_table(folder / "calibration.csv") if tables else []
    history_rows = read_table(history / "history.csv")
    sections = [
        *([summary_section(tables)] if tables else []),
        mosaic_section({title: (case, mosaics[case]) for title, case in picks.items()}),
        *([figure_section("Distribution over patients", distribution_figures(tables[0]))] if tables else []),
        *([figure_section("Calibration", [calibration_figure(calibration)])] if calibration else []),
        patient_section(rows),
        *([figure_section("Training", history_figures(history_rows))] if history_rows else []),
        provenance_section(about),
    ]
    title = f"{'Evaluation' if tables else 'Label maps'}: {folder.resolve().name}"
    subtitle = f"{len(cases)} patients. Research only, not for clinical use."
    write_text(target, build_page(title, subtitle, sections, mosaics))
    write_table(target.with_suffix(".csv"), rows)
    errors = {region: calibration_error(calibration, region) for region in TABLE_ORDER} if calibration else None
    summaries = [read_json_file(table.path.with_suffix(".json")) for table in tables]
    document = {"scores": summaries, "calibration_error": errors, "shown": picks, **about}
    write_json(target.with_suffix(".json"), document)
    print(f"Report of {len(cases)} patient{'s'[: len(cases) != 1]}: {target}")


def scores_of(folder: Path, cases: Collection[str]) -> list[Scores]:
    """The tables of a folder that score all these cases; others are of other patients."""
    paths = [folder / "metrics.csv", folder / "metrics_et_cleared.csv"]
    tables = [read_scores(path) for path in paths if path.is_file()]
    return [table for table in tables if set(cases) <= set(table.cases)]


def read_json_file(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def run_record(folder: Path) -> dict[str, Any] | None:
    """What an evaluation, or else an inference, noted in its output folder."""
    records = (read_json_file(folder / f"{stage}.json") for stage in STAGES)
    return next((record for record in records if record), None)


def find_files(run: str, about: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The cases of a run whose label map is written, by name.

    Raises:
        UserError: if there is none, or an image or label has gone.
    """
    if about is None:
        raise UserError(f"run {run} holds no evaluation.json or inference.json: give the output_dir of one of them.")
    cases = {case["case"]: case for case in about["cases"] if Path(case["prediction"]).is_file()}
    if not cases:
        raise UserError(f"run {run}: none of the label maps that its JSON names is there: predict first.")
    for case in cases.values():
        for key in ("image", "label"):
            if key in case and not Path(case[key]).is_file():
                raise UserError(f"{case[key]} has gone, but the report shows it: bring it back, or run again.")
    return cases


def class_of_value(about: Mapping[str, Any] | None) -> Mapping[int, int]:
    """Network class of each value in a run's label maps; those of every BraTS edition where the run does not say."""
    listed = (about or {}).get("label_values")
    return {int(value): index for index, value in enumerate(listed)} if listed else BRATS_VALUES


def score_rows(scores: Scores) -> list[dict[str, Any]]:
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
    """First, middle and last by title; of fewer than three, none twice."""
    first, middle, last = titles
    chosen = {len(order) // 2: middle, len(order) - 1: last, 0: first}  # of equal places, the later title
    return {chosen[place]: order[place] for place in sorted(chosen)} if order else {}


def mosaic_of(case: Mapping[str, Any], values: Mapping[int, int]) -> Mosaic:
    prediction = Path(case["prediction"])
    entropy = prediction.with_name(prediction.name.replace("_seg.nii", "_entropy.nii"))
    channel = case.get("channels", {}).get("image")
    return draw_mosaic(
        Path(case["image"]),
        prediction,
        Path(case["label"]) if "label" in case else None,
        entropy if entropy.is_file() else None,
        channel[0] if channel else None,
        values,
    )


if __name__ == "__main__":
    run_command(report)
