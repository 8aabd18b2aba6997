"""Checks before work starts of what the settings build: networks, augmentation, processes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from monai.utils import CommonKeys
from torch import nn
from torch.func import functional_call

from scripts.augmentation import PrepareAugmentedBatch
from scripts.distillation import DistillationNetwork, Teacher, logits_list
from scripts.errors import UserError
from scripts.labels import CLASSES

__all__ = [
    "check_augmentation",
    "check_interval",
    "check_networks",
    "check_processes",
    "check_sources",
    "check_teachers",
]


def check_interval(val_interval: int, epochs: int) -> None:
    """Refuse a training that would end before its first validation, so without a student.

    Raises:
        UserError: if val_interval is more than epochs.
    """
    if val_interval > epochs:
        raise UserError(
            f"val_interval is {val_interval}, expected at most epochs, {epochs}: no student would be saved."
        )


def check_sources(ckpt_dir: str, **sources: str | None) -> None:
    """Refuse weights that would be read from the very file in which this training keeps its student.

    Args:
        ckpt_dir: of the training.
        sources: files of weights by the key that names them, None where there is none.

    Raises:
        UserError: names the key and the file.
    """
    student = Path(ckpt_dir, "model.pt")
    for key, path in sources.items():
        if path and Path(path).resolve() == student.resolve():
            raise UserError(f"{key} is {path}, which this training would overwrite: give another --output_dir.")


def check_processes(processes: int = 1, patients: int | None = None) -> None:
    """Refuse several processes that know nothing of each other, or are more than the patients to validate on.

    Args:
        processes: those that work together.
        patients: to validate on, of which each process needs one; None where one process does all, as in inference.

    Raises:
        UserError: if torchrun started more processes, or if there are fewer patients than processes.
    """
    if (started := int(os.environ.get("WORLD_SIZE", 1))) > processes:
        alone, together = "start the command without torchrun", "add 'configs/multi_gpu_train.yaml' to --config_file"
        raise UserError(
            f"torchrun started {started} processes, but each would do the whole work and overwrite the others' files: "
            f"{alone if patients is None else together}."
        )
    if patients is not None and patients < processes and processes > 1:
        raise UserError(
            f"{processes} processes share {patients} validation patient(s), expected at least one each: start fewer "
            "processes (--nproc_per_node, --nnodes), or validate on more patients (scripts.datalist --folds)."
        )


def check_teachers(
    teachers: Mapping[str, Teacher], student_sequence: str | Sequence[str], sequences: Sequence[str]
) -> None:
    """Refuse a teacher that sees a sequence which is not to be loaded.

    Raises:
        UserError: names the teacher and the sequence.
    """
    student = [student_sequence] if isinstance(student_sequence, str) else student_sequence
    for name, teacher in teachers.items():
        if lacking := [sequence for sequence in teacher.sequences if sequence not in {*student, *sequences}]:
            raise UserError(
                f"teachers::{name} sees {', '.join(lacking)}, but sequences is {list(sequences)}: add what it sees."
            )


def check_networks(networks: DistillationNetwork, roi_size: Sequence[int]) -> None:
    """Refuse a student or a teacher that cannot take a patch of its sequences, or gives no logits of the classes.

    Shapes alone are computed, so this takes no time and no memory.

    Raises:
        UserError: names the network, the patch, and what is wrong with it.
    """
    named: dict[str, Any] = {"network_def": (networks.student, networks.student_sequences)}
    named |= {f"teachers::{name}::network": (t.network, t.sequences) for name, t in networks.teachers.items()}
    for key, (network, sequences) in named.items():
        patch = (2, len(sequences), *roi_size)  # two, for networks with batch normalisation
        given = f"{key} ({type(network).__name__}) with patches of {', '.join(sequences)}, {patch},"
        try:
            logits = output_shape(network, patch)
        except (RuntimeError, ValueError) as error:
            if "meta" in str(error):  # it looks at values, which are not there
                continue
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"{given} fails: {reason}. Mend its in_channels, or roi_size.") from error
        if logits != (expected := (2, len(CLASSES), *roi_size)):
            raise UserError(f"{given} gives logits of shape {logits}, expected {expected}: mend its out_channels.")


def check_augmentation(
    augmentation: Compose | None,
    sequences: Sequence[str],
    roi_size: Sequence[int],
    student_sequence: str | Sequence[str] = "t1ce",
) -> None:
    """Refuse an augmentation that fails on a patch, here of zeros, or makes something else of it.

    Raises:
        UserError: names what it does.
    """
    prepare = PrepareAugmentedBatch(augmentation, {name: name for name in sequences})
    patch = torch.zeros(1, 1, *roi_size)
    image = patch if isinstance(student_sequence, str) else torch.cat([patch] * len(student_sequence), dim=1)
    special = {CommonKeys.IMAGE: image, CommonKeys.LABEL: patch.byte()}
    try:
        prepare({key: special.get(key, patch) for key in prepare.keys})
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error.__cause__ or error).splitlines()[0].rstrip(".")
        raise UserError(
            f"augmentation fails on a patch of {tuple(roi_size)}: {reason}. Mend its transforms."
        ) from error


def output_shape(network: nn.Module, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the full-resolution logits for an input of this shape."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    with torch.no_grad():
        return tuple(logits_list(functional_call(network, shapes, torch.empty(patch, device="meta")))[0].shape)
