"""Keys of the command line and of overlays that the config does not have: MONAI ignores them, we refuse them.

And other values than True or False where the config has one of these.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from monai.bundle import ConfigComponent, ConfigParser
from monai.bundle import run as bundle_run
from monai.bundle.config_item import ComponentLocator
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from scripts.command import command_line_options, flag_value, nearest
from scripts.errors import UserError

__all__ = ["bundle_options", "refuse_unknown_keys"]

TRAIN = Path(__file__).resolve().parents[1] / "configs" / "train.yaml"
LOCATOR = ComponentLocator()
IDLE_WITHOUT_TEACHERS = "(confidence|teacher_checkpoint|loss(::|#)(soft_target|fusion_weights))(::|#|$)"
WORKFLOW_KEYS = ("imports", "initialize", "run", "finalize")  # which MONAI looks for


def bundle_options(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Options of ``python -m monai.bundle``; empty where a program called MONAI.

    A config expression sees neither the whole config nor what was overridden, so the command line is read again.
    """
    program, *arguments = sys.argv if argv is None else argv
    if not re.search(r"monai[/\\]bundle[/\\]__main__\.py$", program):
        return {}
    options: dict[str, Any] = dict(command_line_options(arguments))
    if len(arguments) > 1 and not arguments[1].startswith("-"):
        options["run_id"] = arguments[1]
    if "args_file" in options:
        options = dict(ConfigParser.load_config_file(options.pop("args_file"))) | options
    return options


def refuse_unknown_keys(options: Mapping[str, Any]) -> None:
    """Refuse what ``python -m monai.bundle run`` ignores silently: a misspelt top-level override, and the value None.

    And a misspelt run id, at which it ends in a traceback.

    Raises:
        UserError: names the key and the nearest known one, or what to pass for None.
    """
    if "config_file" not in options:
        return
    files = yaml.safe_load(str(options["config_file"]))
    config = ConfigParser.load_config_files(files)
    run_id = options.get("run_id", "run")
    if run_id not in config:
        raise UserError(f"{run_id} is not a key of {files} that could be run; did you mean {nearest(run_id, config)}?")
    refuse_unknown_overlay_keys([files] if isinstance(files, str) else files, options.get("run_id"))
    known = (
        {root(key) for key in config}
        | set(inspect.signature(bundle_run).parameters)
        | {"workflow_type", "properties_path"}
    )
    if "tracking" in options:
        known |= set(DEFAULT_EXP_MGMT_SETTINGS["mlflow"]["configs"])
    refuse_idle_options(config, options)
    config = with_targets(config, options)
    for key, value in options.items():
        if value == "None":
            raise UserError(f"--{key} None is ignored by MONAI: pass --{key} '$None', which is not.")
        if root(key) not in known:
            raise UserError(f"--{key} is not a key of {files}; did you mean --{nearest(root(key), known)}?")
        refuse_wrong_inner_key(f"--{key}", config, key, flag_value(value) if isinstance(value, str) else value)


def refuse_idle_options(config: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse options of distillation in a training without teachers, which would be one of the student alone.

    Raises:
        UserError: names the option and the overlays that bring teachers.
    """
    distilled = config.get("teachers") or any(root(key) == "teachers" for key in options)
    idle = [key for key in options if re.match(IDLE_WITHOUT_TEACHERS, key)]
    if idle and not distilled and options.get("run_id") == "training":
        raise UserError(
            f"--{idle[0]} changes nothing, since the config has no teachers: add 'configs/mtcm_kd.yaml' or "
            "'configs/four_sequence_teacher.yaml' to --config_file, or leave it out."
        )


def with_targets(config: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the targets that the command line swaps, each of which must take what its part holds.

    Raises:
        UserError: names what it does not take: the command line cannot take a key away, an overlay can.
    """
    parser = ConfigParser(config)
    swapped = {key: value for key, value in options.items() if key.endswith("_target_") and key in parser}
    parser.update(swapped)
    for key, value in swapped.items():
        part = parser[re.split("(?:#|::)_target_", key)[0]]
        known = arguments_of(f"--{key}", part)
        if lost := [name for name in part if known and name not in known and not name.startswith("_")]:
            raise UserError(f"--{key}: {value} takes no {lost[0]}: swap all of this part in an overlay.")
    return parser.get()


def root(key: str) -> str:
    return re.split("#|::", key)[0].lstrip("+~")


def refuse_unknown_overlay_keys(files: Sequence[str], run_id: str | None) -> None:
    """Refuse keys of overlays that change nothing: new ones that no file refers to, and misspelt inner ones.

    Those of train.yaml pass, since an overlay may lie over it or over inference.yaml.

    Raises:
        UserError: names the file, the key and the nearest known one; or a file that stands alone behind others, which
            it would undo.
    """
    overlays = [ConfigParser.load_config_file(path) for path in files]
    for path, overlay in zip(files[1:], overlays[1:]):
        if {"bundle_root", "network_def"} <= set(overlay):
            raise UserError(f"{path} stands alone and would undo {files[0]}: put it first in --config_file.")
    referred = {*re.findall(r"@(\w+)", str(overlays)), *WORKFLOW_KEYS, run_id}
    known = {root(key) for part in (ConfigParser.load_config_file(TRAIN), overlays[0]) for key in part}
    for index, (path, overlay) in enumerate(zip(files[1:], overlays[1:]), 1):
        before = ConfigParser.load_config_files(list(files[:index]))
        for key in overlay:
            if root(key) not in known | referred:
                near = nearest(root(key), known)
                raise UserError(f"{path}: {key} is not a key of the files before, nor used; did you mean {near}?")
            refuse_wrong_inner_key(f"{path}: {key}", before, key, overlay[key])
            refuse_lost_target(f"{path}: {key}", before, key, overlay[key])
            refuse_unknown_arguments(f"{path}: {key}", overlay[key])
        known |= {root(key) for key in overlay}


def refuse_wrong_inner_key(name: str, config: Mapping[str, Any], key: str, value: Any) -> None:
    """Refuse an override in a part of the config that has no such part, or whose target takes no such argument.

    A new key is good in a plain mapping (another teacher), and as an argument that the target has a default for.

    Raises:
        UserError: names the key and the nearest known one, or the value that is not True or False.
    """
    first, *path = re.split("#|::", key.lstrip("+~"))
    if path and first in config:
        refuse_wrong_step(name, config[first], path, value)


def refuse_wrong_step(name: str, parent: Any, path: Sequence[str], value: Any) -> None:
    step, *rest = path
    known: dict[str, Any] = {}
    if isinstance(parent, (Mapping, list)):
        known = dict(parent) if isinstance(parent, Mapping) else {str(i): item for i, item in enumerate(parent)}
    if step in known and rest:
        return refuse_wrong_step(name, known[step], rest, value)
    arguments = {}
    if isinstance(parent, Mapping) and not rest:
        if step.startswith("_") or (step not in known and "_target_" not in parent):
            return
        arguments = arguments_of(name, parent)
        if step not in known and not arguments:
            return
    if step not in known | arguments:
        hint = f"did you mean {nearest(step, arguments or known)}?" if known else "the config has a single value there."
        raise UserError(f"{name}: there is no {step} to set; {hint}")
    refuse_text_for_bool(name, [known.get(step), arguments.get(step)], value)


def refuse_text_for_bool(name: str, usual: Sequence[Any], value: Any) -> None:
    """Refuse a text or number where True or False is usual: Python takes the text "false" for true.

    Raises:
        UserError: names the key and the value.
    """
    expression = isinstance(value, str) and value[:1] in ("$", "@", "%")
    wrong = isinstance(value, (str, int, float)) and not isinstance(value, bool) and not expression
    if wrong and any(isinstance(one, bool) for one in usual):
        raise UserError(f"{name} is {value!r}, expected True or False.")


def arguments_of(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """What the target of a part of the config takes, with defaults; empty where it takes anything, or there is none.

    Raises:
        UserError: if there is no such target.
    """
    if str(part.get("_target_", "$")).startswith("$"):
        return {}
    try:
        target = locate(str(ConfigComponent(part, locator=LOCATOR).resolve_module_name()))
    except ModuleNotFoundError:
        target = None
    if not callable(target):
        raise UserError(f"{name}: _target_ {part['_target_']} cannot be found: give MONAI's name or the full path.")
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # of some of Python's own
        return {}
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {} if anything else {key: parameter.default for key, parameter in parameters.items()}


def refuse_lost_target(name: str, config: Mapping[str, Any], key: str, value: Any) -> None:
    """Refuse a mapping without target in the place of a part with one: it would replace all of the part."""
    part: Any = config
    for step in re.split("#|::", key.lstrip("+~")):
        part = part.get(step) if isinstance(part, Mapping) else None
    lost = isinstance(part, Mapping) and "_target_" in part and isinstance(value, Mapping) and "_target_" not in value
    if key[0] not in "+~" and lost and value:
        first = next(iter(value))
        raise UserError(f"{name} replaces all of {part['_target_']}: write {key}::{first} to change {first} alone.")


def refuse_unknown_arguments(name: str, value: Any) -> None:
    """Refuse parts, however deep, whose target cannot be found, takes no such key, or wants True or False for it."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    known = arguments_of(name, value) if isinstance(value, Mapping) else {}
    for key, inner in items:
        if known and key not in known and not str(key).startswith("_"):
            raise UserError(f"{name}: {value['_target_']} takes no {key}; did you mean {nearest(str(key), known)}?")
        refuse_text_for_bool(f"{name}::{key}", [known.get(str(key))], inner)
        refuse_unknown_arguments(f"{name}::{key}", inner)
