"""Check weights that a training starts with: those of teachers, and the student's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.data.seen_patients import warn_of_seen_patients
from scripts.errors import UserError
from scripts.method.distillation import DistillationNetwork
from scripts.settings.provenance import compare_with_training


def check_loaded_weights(
    networks: DistillationNetwork,
    pretrained: str | None,
    ckpt_dir: str,
    spacing: Sequence[float] | None,
    validation: Sequence[Mapping[str, Any]],
) -> None:
    """Warn of weights that were trained on other inputs than they get here, or on patients that validate this training.

    Args:
        networks: student and teachers.
        pretrained: the weights that the student starts with.
        ckpt_dir: where this training writes its own.
        spacing: voxel size in mm.
        validation: the patients that score the student.

    Raises:
        UserError: for weights that this training would overwrite.
    """
    loaded = [
        (f"teachers::{name}::checkpoint", teacher.checkpoint, f"teachers::{name}::sequences", teacher.sequences)
        for name, teacher in networks.teachers.items()
    ]
    for key, path, named, seen in [*loaded, ("pretrained", pretrained, "student_sequence", networks.student_sequences)]:
        if not path:
            continue
        if Path(path).resolve() == Path(ckpt_dir, "model.pt").resolve():
            raise UserError(f"{key} is {path}, which this training would overwrite: give another --output_dir.")
        compare_with_training(path, {"student_sequence": named}, spacing=spacing, student_sequence=seen)
        warn_of_seen_patients(path, validation)
