"""Checks before work starts: of the settings, first of all, and of the networks that they build."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.transforms import Compose
from monai.utils import CommonKeys
from torch import nn
from torch.func import functional_call

from scripts.augmentation import PrepareAugmentedBatch
from scripts.distillation import DistillationNetwork, Teacher, logits_list
from scripts.errors import UserError, print_sentence
from scripts.labels import CLASSES, SEQUENCES
from scripts.metrics import EMPTY_RULES
from scripts.networks import STRIDE
from scripts.overrides import bundle_options, refuse_unknown_keys

__all__ = [
    "check_augmentation",
    "check_interval",
    "check_networks",
    "check_processes",
    "check_settings",
    "check_teachers",
]


def check_settings(**settings: Any) -> None:
    """Refuse misspelt overrides and values that would fail only later; let MONAI's command end in sentences.

    Args:
        settings: values of top-level keys; those named in RULES are checked.

    Raises:
        UserError: names the key, the value and what was expected.
    """
    if options := bundle_options():
        refuse_unknown_keys(options)
        sys.excepthook = print_sentence
    for key, value in settings.items():
        rule, expected = RULES[key]
        if not rule(value):
            raise UserError(f"{key} is {value!r}, expected {expected}.")


def check_interval(val_interval: int, epochs: int) -> None:
    """Refuse a training that would end before its first validation, so without a student.

    Raises:
        UserError: if val_interval is more than epochs.
    """
    if val_interval > epochs:
        raise UserError(
            f"val_interval is {val_interval}, expected at most epochs, {epochs}: no student would be saved."
        )


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


def whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def three(value: Any, multiple: int) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(whole(v, 1) and v % multiple == 0 for v in value)


def spacing(value: Any) -> bool:
    numbers = isinstance(value, list) and all(number(v) and v > 0 for v in value)
    return value is None or (numbers and len(value) == 3)


def known_sequences(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and set(map(str, value)) <= set(SEQUENCES)


def writable(value: Any) -> bool:
    path = Path(str(value)).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def usable(value: Any) -> bool:
    try:
        torch.empty(1, device=value)
    except (RuntimeError, AssertionError):
        return False
    return True


def files(value: Any) -> bool:
    paths = [value] if isinstance(value, str) else value
    return isinstance(paths, list) and bool(paths) and all(Path(str(path)).is_file() for path in paths)


NONE = "null ('$None' on the command line)"
RULES = {
    "epochs": (lambda v: whole(v, 1), "a whole number of at least 1"),
    "fold": (lambda v: v is None or whole(v, 0), f"a whole number of at least 0, or for every patient {NONE}"),
    "device": (usable, "one of this machine, such as cpu or cuda:0"),
    "backend": (lambda v: v in idist.available_backends(), "one of this machine: gloo, or nccl where it has GPUs"),
    "seed": (lambda v: whole(v, 0), "a whole number of at least 0"),
    "output_dir": (writable, "a folder that may be written to, which is made if it does not exist"),
    "student_sequence": (lambda v: v in SEQUENCES or known_sequences(v), f"one of {', '.join(SEQUENCES)}, or a list"),
    "sequences": (lambda v: v == [] or known_sequences(v), f"a list of {', '.join(SEQUENCES)}"),
    **dict.fromkeys(
        ("learning_rate", "student_learning_rate"),
        (lambda v: number(v) and v >= 0, "a number of at least 0, in YAML 1.0e-3, not 1e-3"),
    ),
    **dict.fromkeys(
        ("student_widths", "teacher_widths"),
        (
            lambda v: (
                isinstance(v, list) and len(v) == 4 and all(whole(w, 1) and (w % 4 == 0 or w % 6 == 0) for w in v)
            ),
            'four numbers of channels, multiples of 4 or 6, such as "[8,16,32,64]"',
        ),
    ),
    **dict.fromkeys(
        ("batch_size", "accumulation_steps", "val_interval"),
        (lambda v: whole(v, 1), "a whole number of at least 1"),
    ),
    **dict.fromkeys(
        ("warm_up_epochs", "distillation_warm_up", "num_workers"),
        (lambda v: whole(v, 0), "a whole number of at least 0"),
    ),
    "deep_supervision": (lambda v: v in (0, 1, 2), "0, 1 or 2 heads"),
    "cache": (lambda v: v in ("disk", "memory", "none"), '"disk", "memory" or "none"'),
    "resume": (lambda v: isinstance(v, bool) or v == "auto", "True, False or auto"),
    **dict.fromkeys(
        ("roi_size", "window_size"),
        (lambda v: three(v, STRIDE), f'three multiples of {STRIDE} in voxels, such as "[64,64,64]"'),
    ),
    "spacing": (
        spacing,
        f"three positive numbers in mm, such as [2,2,2], or for each volume's own {NONE}",
    ),
    "patch_ratios": (
        lambda v: isinstance(v, list) and len(v) == 4 and all(number(r) and r >= 0 for r in v) and sum(v) > 0,
        'four numbers of at least 0 (background, NCR, ED, ET), such as "[9,1,1,1]"',
    ),
    "patches": (callable, "a Compose of transforms that cut patches"),
    "augmentation": (
        lambda v: v is None or callable(v),
        f"a Compose of transforms of one patch, or {NONE}",
    ),
    "overlap": (lambda v: number(v) and 0 <= v < 1, "a number from 0 to below 1"),
    "dataset_dir": (lambda v: bool(v) and Path(str(v)).exists(), "a folder that exists: pass --dataset_dir DIR"),
    "ckpt_path": (files, "a file that exists, or a list of files: train first, or pass --ckpt_path FILE"),
    "et_label": (lambda v: v in (3, 4), "3 or 4"),
    "et_threshold_ml": (lambda v: number(v) and v >= 0, "a volume in ml, or 0"),
    "empty_rule": (lambda v: v in EMPTY_RULES, f"one of {sorted(EMPTY_RULES)}"),
    "whole_volume": (lambda v: whole(v, 0), "a number of voxels, or 0"),
    **dict.fromkeys(
        ("amp", "channels_last", "strict", "mirror", "uncertainty", "overwrite", "activation_checkpointing"),
        (lambda v: isinstance(v, bool), "True or False"),
    ),
}
