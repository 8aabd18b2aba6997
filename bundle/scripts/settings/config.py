"""The config of the workflow that runs, as merged from files and options; misspelt keys are errors.

MONAI ignores a key that nothing reads, so a misspelt option would change nothing and nobody would know.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from scripts.documents import correction
from scripts.errors import UserError
from scripts.running import caller, keep_text, merged_config, monai_command, typed_options
from scripts.settings.declaration import TEXT, check_values
from scripts.settings.part_errors import print_part_error, why_not_found

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WORKFLOW_KEYS = ("imports", "initialize", "run", "finalize", "_meta_")  # which MONAI looks for


def check_config(code_dir: str | None = None) -> None:
    """Check the keys and values of the config that runs, before anything is built of them.

    Args:
        code_dir: a folder with modules of the user's own, which the config may name from then on.

    Raises:
        UserError: names the key, the value and what was expected, or a key that is similar.
    """
    if monai_command():
        sys.excepthook = print_part_error
    warnings.filterwarnings("ignore", "NvImgCodecPydicomReader")  # of MONAI, about a reader that is not used
    if code_dir:
        add_code(str(code_dir))
    keep_text(TEXT)
    config, run_id = merged_config(), caller(ConfigWorkflow, "run_id", "run")
    if run_id and run_id not in config:
        raise UserError(
            f"there is no {run_id} to run in the config{correction(run_id, config, ': give training or evaluating.')}"
        )
    base = ConfigParser.load_config_file(CONFIGS / ("train.yaml" if "train" in config else "inference.yaml"))
    check_names(config, base, run_id)
    check_components("", config, base)
    check_values(config)
    check_options(typed_options(), config, run_id)


def add_code(folder: str) -> None:
    """Put a folder on Python's import path. Raises UserError if there is none."""
    if not Path(folder).is_dir():
        raise UserError(f"code_dir is {folder!r}, expected a folder with your modules.")
    if (path := str(Path(folder).resolve())) not in sys.path:
        sys.path.append(path)


@functools.cache
def keys_of_overlays() -> set[str]:
    """All keys of the bundle's overlays, as they are written there: ``a::b``."""
    overlays = [path for path in CONFIGS.glob("*.yaml") if path.stem not in ("train", "inference")]
    return {key for path in overlays for key in ConfigParser.load_config_file(path)}


def check_names(config: Mapping[str, Any], base: Mapping[str, Any], run_id: str) -> None:
    """Raises UserError for a key, at the top or in train or validate, that is not in the base and nothing refers to."""
    tracking = DEFAULT_EXP_MGMT_SETTINGS["mlflow"]["configs"]
    others = {key for key in keys_of_overlays() if "::" not in key}
    known = {*base, *others, *WORKFLOW_KEYS, *tracking, *re.findall(r"[@%](\w+)", str(config)), run_id}
    for key in config:
        if key not in known:
            raise UserError(f"{key} is not a key of the config, nor used by it{correction(key, base)}")
    optimizer = config.get("optimizer")
    if isinstance(optimizer, Mapping) and "lr" in optimizer and "parameter_groups" in str(optimizer.get("params")):
        raise UserError("optimizer::lr has no effect, as optimizer::params has a rate for each: write --learning_rate.")
    for part in ("train", "validate"):  # plain mappings, of which MONAI reads only what it knows
        for key in config.get(part, {}).keys() - base.get(part, {}).keys():
            if not re.search(rf"[@%]{part}(::|#){re.escape(key)}\b", str(config)):
                raise UserError(f"{part}::{key} is used by nothing{correction(key, base[part])}")


def check_options(options: Mapping[str, str], config: Mapping[str, Any], run_id: str) -> None:
    """Warn of options of the command line that no step reads. Raises UserError for None, which MONAI ignores."""
    used = {"config_file", "meta_file", "logging_file", "args_file", "tracking", "run_id", ""}
    waiting = ["initialize", "finalize", run_id]
    while waiting:
        if (name := waiting.pop()) not in used:
            used.add(name)
            waiting += re.findall(r"[@%](\w+)", str(config.get(name, "")))
    for key, value in options.items():
        if value == "None":
            raise UserError(f"--{key} is None, which MONAI ignores: write --{key} '$None'.")
    if idle := [f"--{key}" for key in options if re.split("::|#", key)[0].lstrip("+~") not in used]:
        logger.warning(f"{', '.join(idle)} has no effect: {run_id} does not use it.")


def check_components(name: str, value: Any, base: Any) -> None:
    """Raises UserError for a part whose target does not exist, or does not take one of its keys, or is lost."""
    if isinstance(value, str) and name not in TEXT and re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value):
        raise UserError(f"{name} is the text {value!r}: write a number in YAML as 1.0e-3.")
    if isinstance(value, list):
        for index, item in enumerate(value):
            check_components(f"{name}::{index}", item, None)
    if not isinstance(value, Mapping):
        return
    base = base if isinstance(base, Mapping) else {}
    if value and "_target_" in base and "_target_" not in value:
        first = next(iter(value))
        raise UserError(f"{name} replaces all of {base['_target_']}: write {name}::{first} to change {first} alone.")
    known = arguments_of(name, value)
    for key, item in value.items():
        path = f"{name}::{key}" if name else str(key)
        if known and key not in known and not str(key).startswith("_"):
            raise UserError(f"{path}: {value['_target_']} takes no {key}{correction(str(key), known)}")
        check_components(path, item, base.get(key))
        like = base.get(key) if known.get(key) is inspect.Parameter.empty else known.get(key)
        if isinstance(item, (str, int, float)) and not isinstance(item, bool) and str(item)[:1] not in tuple("$@%"):
            check_value(path, item, like, "" if str(key).startswith("_") else str(value.get("_target_", "")))
        if item is None and "_target_" not in value and base and key not in base and path not in keys_of_overlays():
            raise UserError(f"{path} is null, but there is no {key} to take away{correction(key, base)}")
        if item in (None, "$None") and "teachers" in (name, path):
            raise UserError(f"{path} is null: write NAME::_disabled_: true to take a teacher away, or {{}} for none.")


def check_value(path: str, value: Any, like: Any, target: str) -> None:
    """Raises UserError for text or a number where the default is True or False, and for text where it is a number.

    ``like`` is the default, ``target`` the _target_ that takes the key; empty where there is none.
    """
    if isinstance(like, bool) or (value in ("True", "False") and target):
        raise UserError(f"{path} is {value!r}, expected True or False.")
    ours = target.startswith(("scripts.", "torch.optim."))  # others may take "same", as Conv3d
    if ours and isinstance(value, str) and isinstance(like, (int, float)):
        raise UserError(f"{path} is {value!r}, expected a number.")


def arguments_of(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """What the target of a part takes, with defaults; empty where it takes anything, or there is no target."""
    if str(part.get("_target_", "$")).startswith("$"):
        return {}
    try:
        module = ConfigComponent(part, locator=caller(ConfigParser, "locator", None)).resolve_module_name()
        target = locate(str(module))
    except (ModuleNotFoundError, ErrorDuringImport):
        target = None
    if not callable(target):
        raise UserError(f"{name}: _target_ {part['_target_']} cannot be used{why_not_found(str(part['_target_']))}")
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # of some of Python's own
        return {}
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {} if anything else {key: parameter.default for key, parameter in parameters.items()}
