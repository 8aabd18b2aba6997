"""Functions as commands. Names and types of their options are checked before a function runs."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import fire
from fire.decorators import SetParseFn, SetParseFns
from fire.parser import DefaultParseValue

from scripts.errors import UserError, print_sentence
from scripts.files import with_home

__all__ = ["choose_command", "command_line_options", "nearest", "run_command"]

HELP = {"--help", "-h"}
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {  # by annotation
    "int": (lambda value: type(value) is int and value >= 0, "a whole number of at least 0"),
    "float": (lambda value: type(value) in (int, float) and value >= 0, "a number of at least 0"),
    "bool": (lambda value: type(value) is bool, "True or False"),
}


def choose_command(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Run the command that the command line names, or list them. Raises UserError for an unknown name or option."""
    sys.excepthook = print_sentence
    name, *arguments = sys.argv[1:] or [""]
    if name and name not in commands and not name.startswith("-"):
        raise UserError(f"{name} is not a command; did you mean {nearest(name, commands)}?")
    words = sys.argv[1:]
    if HELP & set(words):
        words = [*([name] if name in commands else []), "--", "--help"]  # else **keys would take --help as a key
    elif name in commands:
        prepare(commands[name], arguments)
    fire.Fire(dict(commands), command=words, name="scripts")


def run_command(function: Callable[..., Any]) -> None:
    """Call a function with the options of the command line, by fire. Raises UserError for a wrong option."""
    sys.excepthook = print_sentence
    prepare(function, sys.argv[1:])
    fire.Fire(function)


def prepare(function: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Check options, which fire does only after the call. Text stays text (``--dataset_dir 2021``), ``~`` is a home."""
    parameters = inspect.signature(function).parameters
    check_options(arguments, parameters)
    after_key = [before.startswith("--") and "=" not in before for before in ["", *arguments]]
    given = sum(not (text.startswith("--") or value) for text, value in zip(arguments, after_key))
    needed = [name for name, item in parameters.items() if item.default is item.empty and item.kind < item.VAR_KEYWORD]
    missing = [name for name in needed if name not in command_line_options(arguments)][given:]
    if missing and not HELP & set(arguments):
        raise UserError(f"--{', --'.join(missing)} must be given; --help shows all options.")
    texts = ("str", "str | None")
    parsers = {name: with_home if item.annotation in texts else DefaultParseValue for name, item in parameters.items()}
    if not HELP & set(arguments):
        SetParseFns(**parsers)(function)
        if takes_any(parameters):
            SetParseFn(with_home)(function)


def takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a function takes options of any name."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def check_options(arguments: Sequence[str], parameters: Mapping[str, inspect.Parameter]) -> None:
    options = command_line_options(arguments, once=parameters)
    for name, value in options.items():
        if name in parameters:
            check_value(name, value, parameters[name])
            continue
        known = [other for other in parameters if other not in options]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8 if takes_any(parameters) else 0.6)
        if close and name != f"no{close[0]}":
            raise UserError(f"--{name} is not an option here; did you mean --{close[0]}?")
        if not takes_any(parameters) and name not in ("help", *(f"no{other}" for other in parameters)):
            raise UserError(f"--{name} is not an option here; there are --{', --'.join(parameters)}.")


def check_value(name: str, value: str, parameter: inspect.Parameter) -> None:
    """Raises UserError if an option's text is missing, or does not fit its annotation."""
    rule, expected = KINDS.get(str(parameter.annotation).removesuffix(" | None"), (None, "a value"))
    alone = value[:2] in ("", "--")  # where no value follows
    if not (rule(alone or DefaultParseValue(value)) if rule else not alone or parameter.default == value):
        raise UserError(f"--{name} is {'' if alone else value!r}, expected {expected}.")


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most similar to this one."""
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]


def command_line_options(arguments: Sequence[str], once: Collection[str] = ()) -> dict[str, str]:
    """Value by key of ``--key value`` and ``--key=value``, split as fire splits them.

    Raises:
        UserError: for one of ``once`` with two values. Of other options the last value counts, as in fire.
    """
    options: dict[str, str] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        if match := re.fullmatch(r"--([^=]+)(?:=(.*))?", argument, re.DOTALL):
            key, value = match[1].replace("-", "_"), following if match[2] is None else match[2]
            if key in once and options.get(key, value) != value:
                raise UserError(f"--{key} is given twice, as {options[key]!r} and {value!r}: give it once.")
            options[key] = value
    return options
