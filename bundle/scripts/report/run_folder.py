"""What the folder of an evaluation or an inference holds: its record, patients and scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from scripts.errors import UserError
from scripts.evaluation.summary import Scores, read_scores
from scripts.files import read_json

__all__ = ["STAGES", "cases_of_run", "read_record", "run_record", "scores_of"]

STAGES = ("evaluation", "inference")
RUN = {"cases": [{"case": str, "image": str, "prediction": str, "label?": str}], "label_values?": (list, NoneType)}


def read_record(path: Path, form: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """A JSON file as a dict, or None if it does not exist.

    Raises:
        UserError: if it has another form.
    """
    return read_json(path, "run", form) if path.is_file() else None


def run_record(folder: Path) -> dict[str, Any]:
    """The record of the evaluation in a folder, or else of the inference; empty if there is neither."""
    records = (read_record(folder / f"{stage}.json", RUN) for stage in STAGES)
    return next((record for record in records if record), {})


def cases_of_run(run: str, record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The cases of a run that have a label map, by name.

    Raises:
        UserError: if there are none, or an image or a label is missing.
    """
    if not record:
        raise UserError(f"run {run} holds no evaluation.json or inference.json: give the output_dir of one of them.")
    cases = {case["case"]: case for case in record["cases"] if Path(case["prediction"]).is_file()}
    if not cases:
        raise UserError(f"run {run} holds none of the label maps that its JSON file names: predict first.")
    for case in cases.values():
        for key in ("image", "label"):
            if key in case and not Path(case[key]).is_file():
                raise UserError(f"{case[key]} is missing, but the report shows it: restore it, or run again.")
    return cases


def scores_of(folder: Path, cases: Collection[str]) -> list[Scores]:
    """The tables in a folder that score all these cases; a table of other patients is left out."""
    paths = [folder / "metrics.csv", folder / "metrics_et_cleared.csv"]
    tables = [read_scores(path) for path in paths if path.is_file()]
    return [table for table in tables if set(cases) <= set(table.cases)]
