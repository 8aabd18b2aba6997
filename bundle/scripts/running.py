"""The workflow that runs: its command, and its config as merged from files and options."""

from __future__ import annotations

import re
import sys
from collections.abc import Set
from functools import reduce
from operator import getitem
from os.path import expanduser
from types import FrameType
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from scripts.command import command_line_options
from scripts.errors import UserError
from scripts.files import flatten
from scripts.workflow import own_command


def keep_text(keys: Set[str]) -> None:
    """Keep text as it was typed: MONAI would read ``--dataset_dir 2021`` as a number, and ``p#1`` as ``p::1``.

    ``~`` is the home in all values of the config.

    Args:
        keys: those whose value is text.

    Raises:
        UserError: for an option with # whose text MONAI has changed already.
    """
    config, resolver = caller(ConfigParser, "config", {}), caller(ConfigParser, "ref_resolver", None)
    homes = {key: text for key, text in flatten(merged_config()) if isinstance(text, str) and text.startswith("~")}
    for key, text in homes.items():
        *above, last = (int(step) if step.isdigit() else step for step in key.split("::"))
        reduce(getitem, above, config)[last] = expanduser(text)
        resolver.items[key].update_config(expanduser(text))
    for key, text in typed_options().items():
        top, *inner = re.split("::|#", key)
        parsed = DefaultParseValue(text)
        value = expanduser(text) if key in keys or isinstance(parsed, str) else parsed
        texts = [leaf for _, leaf in flatten(value) if isinstance(leaf, str)]
        changed = re.search("#|[@%]::", str(texts)) and not any(leaf.startswith(("$", "@", "%")) for leaf in texts)
        if changed and top in config and (inner or key == "code_dir"):
            raise UserError(f"--{key} is {text!r}, in which MONAI takes # for ::, expected text without #: rename it.")
        if key in config and (changed or (key in keys and not isinstance(config[key], str))):
            config[key] = resolver.resolved_content[key] = value  # where it resolves text, MONAI takes # for :: again


def merged_config() -> dict[str, Any]:
    """The config of the workflow that calls, not resolved; empty where none does.

    MONAI gives it to no expression, so it is looked for among the callers.
    """
    config = caller(ConfigParser, "config", {})
    return {key: value for key, value in config.items() if key != "_meta_"}


def caller(kind: type, attribute: str, default: Any) -> Any:
    """An attribute of the nearest caller that is a method of this class."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:  # asking a frame for its variables keeps them alive, so only methods are asked
        is_method = frame.f_code.co_varnames[:1] == ("self",)
        if is_method and isinstance(owner := frame.f_locals.get("self"), kind):
            return getattr(owner, attribute)
        frame = frame.f_back
    return default


def monai_command() -> str | None:
    """``python -m monai.bundle ...`` with its options; None where another program called MONAI."""
    return own_command(r"monai[/\\]bundle")


def typed_options() -> dict[str, str]:
    """The text of each option of MONAI's command; empty where another program called MONAI."""
    return command_line_options(sys.argv[1:]) if monai_command() else {}
