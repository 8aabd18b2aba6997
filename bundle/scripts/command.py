"""Functions as commands. Names and types of their options are checked before a function runs."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from os.path import expanduser
from typing import Any

import fire
from fire.parser import DefaultParseValue

from scripts.documents import correction
from scripts.errors import UserError, print_sentence

Positional = str  # annotates text that may be given without its option: compare RUN_A RUN_B
TEXTS = ("str", "str | None", "Positional")
HELP = {"--help", "-h"}
OPTION = re.compile(r"(--[^=-][^=]*|-[A-Za-z][^=]*)(?:=(.*))?", re.DOTALL)  # -1 is a value
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {  # by annotation
    "int": (lambda value: type(value) is int and value >= 0, "a whole number of at least 0"),
    "float": (lambda value: type(value) in (int, float) and value >= 0, "a number of at least 0"),
    "bool": (lambda value: type(value) is bool, "True or False"),
}


def choose_command(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Run the command that the command line names, or list them. Raises UserError for an unknown name or option."""
    sys.excepthook = print_sentence
    name, *words = sys.argv[1:] or [""]
    if name and name not in commands and not name.startswith("-"):
        raise UserError(
            f"{name} is not a command{correction(name, commands, ': python -m scripts --help lists them.')}"
        )
    if name in commands and not HELP & set(words):
        return call(commands[name], words)
    words = [*({name} & commands.keys()), "--", "--help"] if HELP & {name, *words} else sys.argv[1:]
    fire.Fire({key: for_help(function) for key, function in commands.items()}, command=words, name="scripts")


def run_command(function: Callable[..., Any]) -> None:
    """Call a function with the options of the command line, or show its help. Raises UserError for a wrong option."""
    sys.excepthook = print_sentence
    fire.Fire(for_help(function), ["--", "--help"]) if HELP & set(sys.argv) else call(function, sys.argv[1:])


def for_help(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, of which fire's help lists parameters as --KEY unless they are Positional."""
    items = [*inspect.signature(function).parameters.values()]
    alone = [item.kind > item.KEYWORD_ONLY or item.annotation == "Positional" for item in items]
    items = [item if kept else item.replace(kind=item.KEYWORD_ONLY) for item, kept in zip(items, alone)]
    vars(function)["__signature__"] = inspect.Signature(items)
    return function


def call(function: Callable[..., Any], words: Sequence[str]) -> None:
    """Call a function with options. Text stays text (``--dataset_dir 2021``), and ``~`` is the home."""
    parameters = inspect.signature(function).parameters
    options = check_options(words, parameters)
    needed = [name for name, item in parameters.items() if item.default is item.empty and item.kind < item.VAR_KEYWORD]
    if missing := [name for name in needed if name not in options]:
        raise UserError(f"--{', --'.join(missing)} must be given; --help shows all options.")
    parsed = {name for name in options if name in parameters and parameters[name].annotation not in TEXTS}
    values = {name: DefaultParseValue(text) if name in parsed else expanduser(text) for name, text in options.items()}
    try:
        function(**values)
        sys.stdout.flush()
    except OSError:
        try:
            sys.stdout.flush()
        except OSError as error:  # so it is the output that cannot be written
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - Python flushes it again at its end
            raise UserError(f"Standard output cannot be written ({error.strerror}): send it elsewhere.") from error
        raise


def check_options(words: Sequence[str], parameters: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    """Text by option. Raises UserError for a word that a function does not take, or a value that does not fit."""
    named = {name: str(item.annotation) for name, item in parameters.items() if item.kind < item.VAR_KEYWORD}
    given, options = command_line_options(words), dict[str, str]()
    for option, name, value in split_words(words):
        if not (name := name or next((key for key in named if named[key] == "Positional" and key not in options), "")):
            raise UserError(f"{value!r} follows no option: write --KEY VALUE, and a pattern in quotes, as '*_t1.nii'.")
        positive = name if name in named else name.removeprefix("no")
        if value is None and named.get(positive) == "bool":
            name, value = positive, str(name == positive)
        if name not in named:
            reject_unknown(option, name, named, given, anything=len(named) < len(parameters))
        elif options.get(name, value) != value:
            raise UserError(f"--{name} is given twice, as {options[name]!r} and {value!r}: give it once.")
        else:
            check_kind(name, value, parameters[name])
        options[name] = "True" if value is None else value
    return options


def reject_unknown(option: str, name: str, named: Mapping[str, str], given: Mapping[str, str], anything: bool) -> None:
    """Raises UserError for an option that a function does not name; with ``anything``, if it looks misspelt."""
    left = [key for key in named if key not in given] + [option[1:]] * (anything and option[1] != "-")
    near = difflib.get_close_matches(name, left, n=1, cutoff=0.8 if anything else 0.6)
    if near or not anything or option[1] != "-":
        known = f"did you mean --{near[0]}?" if near else f"there are --{', --'.join(named)}."
        raise UserError(f"{option} is not an option here; {known}")


def check_kind(name: str, value: str | None, parameter: inspect.Parameter) -> None:
    """Raises UserError for a value that is empty, unless that is the default, or not of the parameter's kind."""
    rule, expected = KINDS.get(str(parameter.annotation).removesuffix(" | None"), (None, "a value"))
    fits = rule(DefaultParseValue(value or "")) if rule else value or parameter.default == value == ""
    if not fits:
        raise UserError(f"--{name} is {repr(value) if value else 'empty'}, expected {expected}.")


def split_words(words: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """(option, its key, value), as fire splits a command line; empty option and key for a word that follows none."""
    waiting = [*words, "--end"]
    while waiting[1:]:
        match = OPTION.fullmatch(word := waiting.pop(0))
        option, value = (match[1], match[2]) if match else ("", word)
        if value is None and not OPTION.fullmatch(waiting[0]):
            value = waiting.pop(0)
        yield option, option.removeprefix("--").replace("-", "_"), value


def command_line_options(words: Sequence[str]) -> dict[str, str]:
    """Value by key of ``--key value`` and ``--key=value``. Of one that is given twice the last value counts."""
    return {key: value or "" for option, key, value in split_words(words) if option[:2] == "--"}
