"""Sentences of a report that a reader must not miss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.data.seen_patients import training_records
from scripts.documents import some
from scripts.labels import TABLE_ORDER
from scripts.report.run_folder import Run
from scripts.report.words import REGION_TITLES

__all__ = ["alerts_of", "training_ranges"]


def alerts_of(
    run: Run, volumes_ml: Mapping[str, Mapping[str, float]], strange: Mapping[str, Sequence[str]]
) -> list[str]:
    """What is unusual in a run: patients of the training, images unlike it, and regions without prediction.

    Args:
        run: the run.
        volumes_ml: predicted volume by case and region.
        strange: by case, in what its image is unlike those of the training.
    """
    return [*seen_in_training(run), *unlike_training(strange), *empty_predictions(volumes_ml)]


def seen_in_training(run: Run) -> list[str]:
    """Patients that the weights were trained on, by the record of the training."""
    found = []
    for weights in run.record.get("weights") or {}:
        for record, document in training_records(weights):
            trained = {entry["case"] for entry in document.get("cases") or document.get("training", [])}
            if seen := sorted(trained & set(run.cases)):
                found.append(
                    f"{Path(weights).name} was trained on {len(seen)} of these {len(run.cases)} patients, whose label "
                    f"maps are better than those of new patients: {some(seen)} (by {record.name})."
                )
    return found


def training_ranges(run: Run) -> dict[str, Sequence[float]]:
    """Range of each trait of an image in the training of the run's weights; empty where it is not recorded."""
    for weights in run.record.get("weights") or {}:
        for _, document in training_records(weights):
            if ranges := document.get("traits"):
                return ranges
    return {}


def unlike_training(strange: Mapping[str, Sequence[str]]) -> list[str]:
    """Patients whose image is unlike those of the training."""
    if not (names := [case for case, reasons in strange.items() if reasons]):
        return []
    return [
        f"{len(names)} of {len(strange)} images look unlike those of the training, so look at their label maps with "
        f"care: {some(names)}. The reasons stand beside their pictures."
    ]


def empty_predictions(volumes_ml: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Patients in whom a region was not found at all."""
    found = []
    for region in TABLE_ORDER:
        if empty := [case for case, volumes in volumes_ml.items() if not volumes[region]]:
            found.append(
                f"{REGION_TITLES[region]}: nothing was predicted in {len(empty)} of {len(volumes_ml)} patients: "
                f"{some(empty)}."
            )
    return found
