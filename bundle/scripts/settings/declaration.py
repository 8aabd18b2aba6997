"""What the top-level keys of the configs may be: one rule a key."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch

from scripts.environment import ROOM, sockets_fit
from scripts.errors import UserError
from scripts.files import check_folder
from scripts.labels import EMPTY_RULES, SEQUENCES
from scripts.method.resunet import STRIDE, WIDTHS, are_widths

TEXT = {"dataset_dir", "datalist", "output_dir", "ckpt_dir", "cache_dir", "code_dir", "pretrained", "t1ce"}
TEXT |= {"run_name", "mlflow_experiment", "mlflow_uri", "targets", "brain_mask", "series"}


def check_values(config: Mapping[str, Any]) -> None:
    """Check the values of a config by RULES; expressions and references are left to what uses them.

    Raises:
        UserError: names the key, the value and what was expected.
    """
    for key, (rule, expected) in RULES.items():
        value = config.get(key)
        computed = isinstance(value, Mapping) or str(value)[:1] in ("$", "@", "%")
        if key in config and not computed and not rule(value):
            raise UserError(f"{key} is {value!r}, expected {expected}.")


def whole(value: Any, least: int) -> bool:
    """Whether a value is a whole number of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def number(value: Any) -> bool:
    """Whether a value is a number; True is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def listed(value: Any, length: int, rule: Callable[[Any], bool]) -> bool:
    """Whether a value is a list of this length, each part of which fits."""
    return isinstance(value, (list, tuple)) and len(value) == length and all(map(rule, value))


def writable(value: Any) -> bool:
    """Whether a run can write here; UserError says what the system says."""
    check_folder(str(value), "output_dir")  # says what the system says
    folder = Path(str(value)).resolve()
    return all(folder in (folder / name).resolve().parents for name in ("models", "cache"))  # no links out of it


def usable(value: Any) -> bool:
    """Whether PyTorch can use this device."""
    try:
        torch.empty(1, device=value)
    except (RuntimeError, AssertionError):
        return False
    return True


def each(value: Any, rule: Callable[[Any], bool]) -> bool:
    """Whether text, or each text of a list, fits."""
    parts = [value] if isinstance(value, str) else value
    return isinstance(parts, list) and bool(parts) and all(rule(str(part)) for part in parts)


NONE = "null ('$None' on the command line)"
Rule = tuple[Callable[[Any], bool], str]
AT_LEAST_0: Rule = (lambda v: whole(v, 0), "a whole number of at least 0")
AT_LEAST_1: Rule = (lambda v: whole(v, 1), "a whole number of at least 1")
RATE: Rule = (lambda v: number(v) and v >= 0, "a number of at least 0")
FLAG: Rule = (lambda v: isinstance(v, bool), "True or False")
SIZE: Rule = (
    lambda v: listed(v, 3, lambda n: whole(n, 1) and n % STRIDE == 0),
    f'three multiples of {STRIDE} in voxels, such as "[64,64,64]"',
)
FLAGS = "strict overwrite activation_checkpointing amp channels_last deterministic mirror dicom_seg"
COUNTS = "seed warm_up_epochs distillation_warm_up whole_volume unlabelled_ramp_up"
RULES: dict[str, Rule] = {
    **dict.fromkeys((*FLAGS.split(), "uncertainty", "probabilities"), FLAG),
    **dict.fromkeys(("epochs", "batch_size", "accumulation_steps", "val_interval", "search_interval"), AT_LEAST_1),
    **dict.fromkeys(COUNTS.split(), AT_LEAST_0),
    "num_workers": (lambda v: whole(v, 0) and (v == 0 or sockets_fit()), f"{AT_LEAST_0[1]}; above 0 it needs {ROOM}"),
    **dict.fromkeys(("learning_rate", "student_learning_rate"), RATE),
    **dict.fromkeys(("roi_size", "window_size"), SIZE),
    **dict.fromkeys(sorted(TEXT), (lambda v: v is None or isinstance(v, (str, Path)), "text, such as ./2021")),
    "student_sequence": (lambda v: each(v, SEQUENCES.__contains__), f"one or a list of {', '.join(SEQUENCES)}"),
    "fold": (lambda v: v is None or whole(v, 0), f"a whole number of at least 0, or for every patient {NONE}"),
    "spacing": (
        lambda v: v is None or listed(v, 3, lambda n: number(n) and n > 0),
        f"three positive numbers in mm, such as [2,2,2], or for each volume's own {NONE}",
    ),
    "overlap": (lambda v: number(v) and 0 <= v < 1, "a number from 0 to below 1"),
    "unlabelled_share": (lambda v: v is None or (number(v) and 0 <= v < 1), f"a number from 0 to below 1, or {NONE}"),
    "patch_ratios": (
        lambda v: listed(v, 4, lambda n: number(n) and n >= 0) and sum(v) > 0,
        'four numbers of at least 0 (background, NCR, ED, ET), such as "[9,1,1,1]"',
    ),
    "cache": (lambda v: v in ("disk", "memory", "none"), '"disk", "memory" or "none"'),
    "output_dir": (writable, "a folder whose models and cache are no links (--ckpt_dir and --cache_dir may be)"),
    "resume": (lambda v: isinstance(v, bool) or v == "auto", "True, False or auto"),
    "clip_gradient": (lambda v: v is None or (number(v) and v > 0), f"a number above 0, or {NONE}"),
    "device": (usable, "one of this machine, such as cpu or cuda:0"),
    "backend": (lambda v: v in idist.available_backends(), "one of this machine: gloo, or nccl where it has GPUs"),
    "student_widths": (
        lambda v: listed(v, 4, lambda n: whole(n, 1)) and are_widths(v),
        f'{WIDTHS}, such as "[8,16,32,64]"',
    ),
    "deep_supervision": (lambda v: v in (0, 1, 2), "0, 1 or 2 heads"),
    "ckpt_path": (lambda v: each(v, os.path.isfile), "files that exist, several as \"['a.pt','b.pt']\": train first"),
    "et_label": (lambda v: v in (3, 4), "3 or 4"),
    **dict.fromkeys(("et_threshold_ml", "smallest_part_ml"), (lambda v: number(v) and v >= 0, "a volume in ml, or 0")),
    "empty_rule": (lambda v: v in list(EMPTY_RULES), f"one of {sorted(EMPTY_RULES)}"),
}
