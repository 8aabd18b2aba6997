"""Sentences of a report that a reader must not miss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.data.likeness import traits_of, unlike
from scripts.data.seen_patients import seen_cases, training_records
from scripts.documents import some
from scripts.files import sha256
from scripts.labels import TABLE_ORDER
from scripts.report.layers import Patient
from scripts.report.run_folder import Run
from scripts.report.titles import REGION_TITLES

MOST = 50  # names in a sentence


class Alerts:
    """What is unusual in a run: patients of the training, images unlike it, regions without prediction.

    Show it every patient, then ask for its sentences.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.records = records_of(run)
        documents = [document for records in self.records.values() for _, document in records]
        self.ranges: dict[str, Sequence[float]] = next((d["traits"] for d in documents if d.get("traits")), {})
        self.volumes_ml: dict[str, dict[str, float]] = {}  # predicted, by case and region
        self.strange: dict[str, list[str]] = {}  # by case, in what its image is unlike all of the training

    def look_at(self, patient: Patient, title: str) -> None:
        """Take in a patient; ``title`` is that of the run's label map among the layers."""
        self.volumes_ml[patient.name] = patient.volumes_ml(title)
        measured = traits_of(patient.image, patient.spacing) if self.ranges else {}
        self.strange[patient.name] = unlike(measured, self.ranges)

    def reasons(self, case: str) -> list[str]:
        """In what a patient's image is unlike those of the training, in sentences that stand beside its pictures."""
        return [f"Unlike all images of the training: {reason}." for reason in self.strange[case]]

    def sentences(self) -> list[str]:
        """The alerts, those that change the reading of all scores first."""
        return [*self.run.notes, *self.unknown(), *self.seen(), *self.unlike_training(), *self.empty()]

    def unknown(self) -> list[str]:
        """Weights whose training left no record, so that nothing can be said of it."""
        return [
            f"It is not known which patients {self.run.weights[weights]} was trained on, nor what their images look "
            "like: the record of its training (training.json) is not in the folder above it."
            for weights, records in self.records.items()
            if not records
        ]

    def seen(self) -> list[str]:
        """Patients that the weights were trained on. In a cross-validation each is scored by weights that were not."""
        if "folds" in self.run.record:
            return []
        found = []
        for weights, records in self.records.items():
            for record, document in records:
                if seen := seen_cases(document, self.run.cases.values()):
                    found.append(
                        f"{self.run.weights[weights]} was trained on patients of {len(seen)} of these "
                        f"{len(self.run.cases)} scans, whose label maps may be better than those of new patients: "
                        f"{some(seen, MOST)} (by {record.name})."
                    )
        return found

    def unlike_training(self) -> list[str]:
        """Patients whose image is unlike those of the training."""
        if not (names := [case for case, reasons in self.strange.items() if reasons]):
            return []
        return [
            f"{len(names)} of {len(self.strange)} images look unlike those of the training, so look at their label "
            f"maps with care: {some(names, MOST)}. The reasons stand beside their pictures."
        ]

    def empty(self) -> list[str]:
        """Patients in whom a region was not found at all."""
        found = []
        for region in TABLE_ORDER:
            if empty := [case for case, volumes in self.volumes_ml.items() if not volumes[region]]:
                found.append(
                    f"{REGION_TITLES[region]}: nothing was predicted in {len(empty)} of {len(self.volumes_ml)} "
                    f"scans: {some(empty, MOST)}."
                )
        return found


def records_of(run: Run) -> dict[str, list[tuple[Path, dict[str, Any]]]]:
    """The records of the training, by file of weights. The shipped weights are known by their checksum."""
    own = Path(__file__).resolve().parents[2] / "models" / "model.pt"
    found = {}
    for weights, checksum in (run.record.get("weights") or {}).items():
        found[weights] = list(training_records(weights))
        if not found[weights] and own.is_file() and sha256(own) == checksum:
            found[weights] = list(training_records(str(own)))
    return found
