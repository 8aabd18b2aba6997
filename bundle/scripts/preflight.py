"""Checks of the settings, before anything is built: the first entry of every ``training`` and ``evaluating`` list."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from monai.bundle import ConfigComponent, ConfigParser
from monai.bundle import run as bundle_run
from monai.bundle.config_item import ComponentLocator
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from scripts.errors import UserError
from scripts.metrics import EMPTY_RULES
from scripts.networks import STRIDE

__all__ = ["bundle_options", "check_settings", "command_line_options", "refuse_unknown_keys"]


def check_settings(**settings: Any) -> None:
    """Refuse misspelt overrides and values that would fail only later.

    Args:
        settings: values of top-level keys; those named in RULES are checked.

    Raises:
        UserError: names the key, the value and what was expected.
    """
    refuse_unknown_keys(bundle_options())
    for key, value in settings.items():
        rule, expected = RULES[key]
        if not rule(value):
            raise UserError(f"{key} is {value!r}, expected {expected}.")


def whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def three(value: Any, multiple: int) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(whole(v, 1) and v % multiple == 0 for v in value)


def spacing(value: Any) -> bool:
    numbers = isinstance(value, list) and all(isinstance(v, (int, float)) and v > 0 for v in value)
    return value is None or (numbers and len(value) == 3)


def files(value: Any) -> bool:
    paths = [value] if isinstance(value, str) else value
    return isinstance(paths, list) and bool(paths) and all(Path(str(path)).is_file() for path in paths)


RULES = {
    "epochs": (lambda v: whole(v, 1), "a whole number of at least 1"),
    "fold": (lambda v: v is None or whole(v, 0), "a whole number of at least 0, or null for every patient"),
    "batch_size": (lambda v: whole(v, 1), "a whole number of at least 1"),
    "accumulation_steps": (lambda v: whole(v, 1), "a whole number of at least 1"),
    "resume": (lambda v: isinstance(v, bool) or v == "auto", "True, False or auto"),
    **dict.fromkeys(
        ("roi_size", "window_size"),
        (lambda v: three(v, STRIDE), f'three multiples of {STRIDE} in voxels, such as "[64,64,64]"'),
    ),
    "spacing": (spacing, 'three positive numbers in mm, such as "[2,2,2]", or null for the native spacing'),
    "overlap": (lambda v: isinstance(v, (int, float)) and 0 <= v < 1, "a number from 0 to below 1"),
    "dataset_dir": (lambda v: bool(v) and Path(str(v)).exists(), "a folder that exists: pass --dataset_dir DIR"),
    "ckpt_path": (files, "a file that exists, or a list of files: train first, or pass --ckpt_path FILE"),
    "et_label": (lambda v: v in (3, 4), "3 or 4"),
    "et_threshold_ml": (lambda v: isinstance(v, (int, float)) and v >= 0, "a volume in ml, or 0"),
    "empty_rule": (lambda v: v in EMPTY_RULES, f"one of {sorted(EMPTY_RULES)}"),
    "whole_volume": (lambda v: whole(v, 0), "a number of voxels, or 0"),
    **dict.fromkeys(
        ("amp", "channels_last", "strict", "mirror", "uncertainty", "overwrite", "activation_checkpointing"),
        (lambda v: isinstance(v, bool), "True or False"),
    ),
}


def bundle_options(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Options of ``python -m monai.bundle``; empty where a program called MONAI.

    A config expression sees neither the whole config nor what was overridden, so the command line is read again.
    """
    program, *arguments = sys.argv if argv is None else argv
    if not re.search(r"monai[/\\]bundle[/\\]__main__\.py$", program):
        return {}
    options: dict[str, Any] = dict(command_line_options(arguments))
    if "args_file" in options:
        options = dict(ConfigParser.load_config_file(options.pop("args_file"))) | options
    return options


def refuse_unknown_keys(options: Mapping[str, Any]) -> None:
    """Refuse what ``python -m monai.bundle run`` ignores silently: a misspelt top-level override, and the value None.

    Raises:
        UserError: names the key and the nearest known one, or what to pass for None.
    """
    if "config_file" not in options:
        return
    known = set(inspect.signature(bundle_run).parameters) | {"workflow_type", "properties_path"}
    files = yaml.safe_load(str(options["config_file"]))
    config = ConfigParser.load_config_files(files)
    known |= {re.split("#|::", key)[0].lstrip("+") for key in config}
    if "tracking" in options:
        known |= set(DEFAULT_EXP_MGMT_SETTINGS["mlflow"]["configs"])
    for key, value in options.items():
        if value == "None":
            raise UserError(f"--{key} None is ignored by MONAI: pass --{key} '$None', which is not.")
        name, *inner = re.split("#|::", key.lstrip("+"))
        if name not in known:
            raise UserError(f"--{key} is not a key of {files}; did you mean --{nearest(name, known)}?")
        if inner:
            refuse_unknown_inner_key(key, config[name], inner)


def refuse_unknown_inner_key(key: str, parent: Any, path: Sequence[str]) -> None:
    """Refuse an override in a part of the config that has no such part, or whose target takes no such argument.

    A new key is good in a plain mapping (another teacher), and as an argument that the target has a default for.

    Raises:
        UserError: names the key and the nearest known one.
    """
    step, *rest = path
    known = (
        [*parent] if isinstance(parent, Mapping) else [str(i) for i in range(len(parent) * isinstance(parent, list))]
    )
    if step in known and rest:
        return refuse_unknown_inner_key(key, parent[step] if isinstance(parent, Mapping) else parent[int(step)], rest)
    if step not in known and not rest and isinstance(parent, Mapping):
        if "_target_" not in parent or step.startswith("_"):
            return
        target = locate(str(ConfigComponent(parent, locator=ComponentLocator()).resolve_module_name()))
        parameters = inspect.signature(target).parameters if callable(target) else {}
        if step in parameters or not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        known = [*parameters]
    if step not in known:
        hint = f"did you mean {nearest(step, known)}?" if known else "the config has a single value there."
        raise UserError(f"--{key}: there is no {step} to set; {hint}")


def nearest(name: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]


def command_line_options(arguments: Sequence[str]) -> dict[str, str]:
    """``--key value`` and ``--key=value`` as fire reads them."""
    options = {}
    for index, argument in enumerate(arguments):
        if match := re.fullmatch(r"--([^=]+)(?:=(.*))?", argument, re.DOTALL):
            following = arguments[index + 1] if index + 1 < len(arguments) else ""
            options[match[1].replace("-", "_")] = match[2] if match[2] is not None else following
    return options
