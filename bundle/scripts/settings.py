"""Checks of the settings themselves, before anything is built of them: one rule for each top-level key."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch

from scripts.errors import UserError, print_sentence
from scripts.labels import SEQUENCES
from scripts.metrics import EMPTY_RULES
from scripts.networks import STRIDE
from scripts.overrides import bundle_options, refuse_unknown_keys

__all__ = ["check_settings"]


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
        (
            "amp",
            "channels_last",
            "lr_from_validation",
            "strict",
            "mirror",
            "uncertainty",
            "overwrite",
            "activation_checkpointing",
        ),
        (lambda v: isinstance(v, bool), "True or False"),
    ),
}
