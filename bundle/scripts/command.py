"""Command lines: options as fire reads them, and functions as commands that refuse a misspelt one before they act."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import fire
from fire.parser import DefaultParseValue

from scripts.errors import UserError

__all__ = ["command_line_options", "flag_value", "nearest", "run_command"]

KINDS: dict[str, tuple[tuple[type, ...], str]] = {  # by annotation
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "True or False"),
}


def run_command(function: Callable[..., Any]) -> None:
    """Run a function with the command line's options. fire alone would run it first, and refuse the rest after.

    Raises:
        UserError: names an option that the function does not take and the nearest that it does, or one whose value is
            not the number, or True or False, that its annotation says.
    """
    parameters = inspect.signature(function).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name, value in command_line_options(sys.argv[1:]).items():
        if name not in parameters:
            if not open_ended and name not in ("help", "", *(f"no{known}" for known in parameters)):
                close = difflib.get_close_matches(name, parameters, n=1)
                hint = f"did you mean --{close[0]}?" if close else f"there are --{', --'.join(parameters)}."
                raise UserError(f"--{name} is not an option here; {hint}")
        elif (kind := str(parameters[name].annotation).removesuffix(" | None")) in KINDS:
            types, expected = KINDS[kind]
            if not isinstance(flag_value(value) if kind == "bool" else DefaultParseValue(value), types):
                raise UserError(f"--{name} is {value!r}, expected {expected}.")
    fire.Fire(function)


def flag_value(text: str) -> Any:
    """What fire makes of the text after an option that may stand alone: True if it is the next option, or nothing."""
    return DefaultParseValue("True" if text[:2] in ("", "--") else text)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like this one."""
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]


def command_line_options(arguments: Sequence[str]) -> dict[str, str]:
    """``--key value`` and ``--key=value`` as fire reads them."""
    options = {}
    for index, argument in enumerate(arguments):
        if match := re.fullmatch(r"--([^=]*)(?:=(.*))?", argument, re.DOTALL):
            following = arguments[index + 1] if index + 1 < len(arguments) else ""
            options[match[1].replace("-", "_")] = match[2] if match[2] is not None else following
    return options
