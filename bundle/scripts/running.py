"""The workflow that runs: its command and its config, which MONAI hands to no component."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from typing import Any

from monai.bundle import ConfigParser

__all__ = ["caller", "command_as_typed", "merged_config"]


def merged_config() -> dict[str, Any]:
    """The config of the workflow that calls, not resolved; empty where none does.

    MONAI gives it to no expression, so it is looked for among the callers.
    """
    config = caller(ConfigParser, "config", {})
    return {key: value for key, value in config.items() if key != "_meta_"}


def caller(kind: type, attribute: str, default: Any) -> Any:
    """An attribute of the nearest caller that is a method of this class."""
    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(owner := frame.f_locals.get("self"), kind):
            return getattr(owner, attribute)
        frame = frame.f_back
    return default


def command_as_typed() -> str | None:
    """``python -m monai.bundle ...`` with its options; None where another program called MONAI."""
    if not re.search(r"monai[/\\]bundle[/\\]__main__\.py$", sys.argv[0]):
        return None
    return shlex.join(["python", "-m", "monai.bundle", *sys.argv[1:]])
