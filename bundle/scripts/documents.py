"""Documents: what form those from outside must have, and which ones no other command may replace."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from scripts.errors import UserError

WORDS: dict[type, str] = {
    **{str: "text", int: "a whole number", float: "a number", bool: "true or false"},
    **{dict: "keys with values", list: "a list", NoneType: "empty"},
}
SCORES = ("metrics.csv", "metrics.json", "metrics_et_cleared.csv", "metrics_et_cleared.json", "calibration.csv")
REPORT = ("report.html", "report.csv", "report.json")
COMPARISON = ("comparison.html", "comparison.csv", "comparison.json")
DOCUMENTS = frozenset(  # of runs and data sets, each with one command that writes it
    [f"{stage}.json" for stage in ("training", "evaluation", "inference", "cross_validation", "mlflow", "teacher")]
    + [*SCORES, *REPORT, *COMPARISON, "history.csv", "trained_on.json", "dataset.json", "split.json"]
)


def check_form(value: Any, form: Any, source: str, name: str = "") -> None:
    """Check the form of a document from outside.

    Args:
        value: the document, or a part of it.
        form: a type, or several; {key: form} of a mapping with these keys (``key?`` may lack); [form] of a list.
        source: the document's option and path, for the message.
        name: the part's key.

    Raises:
        UserError: names the document, the key, what was found and what was expected.
    """
    part_name, advice = name or "the document", "give another document, or make it again"
    kind = dict if isinstance(form, dict) else list if isinstance(form, list) else form
    known = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, known) or (isinstance(value, bool) and bool not in known):
        kinds = " or ".join(WORDS.get(item, item.__name__) for item in known)
        raise UserError(f"{source}: {part_name} is {in_words(value)}, expected {kinds}: {advice}.")
    for key, part in form.items() if isinstance(form, dict) else ():
        key, optional = key.removesuffix("?"), key.endswith("?")
        if key in value:
            check_form(value[key], part, source, f"{name}::{key}" if name else key)
        elif not optional:
            keys = some(value) or "nothing"
            raise UserError(f"{source}: {part_name} has no {key}, only {keys}: {advice}.")
    for index, item in enumerate(value if isinstance(form, list) else ()):
        check_form(item, form[0], source, f"{name}::{index}" if name else str(index))


def in_words(value: Any) -> str:
    """What a value is, for people: empty, the number 7, the text 'x', a list."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return f"the text {value[:60]!r}" if isinstance(value, str) else WORDS.get(type(value), f"a {type(value).__name__}")


def some(names: Collection[Any], most: int = 8) -> str:
    """Names with commas; of many the first ones, and how many more there are."""
    shown = ", ".join([str(name)[:200] for name in names][:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def correction(name: str, known: Iterable[str], otherwise: str = ": leave it out.") -> str:
    """The end of a sentence on a name that is not known: a known one that is similar, or what to do where none is."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else otherwise


def check_unowned(
    files: Mapping[Path, str], option: str, own: Sequence[str] = (), sources: Sequence[str | Path | None] = ()
) -> None:
    """Check that a command replaces only what it wrote itself.

    Args:
        files: what the command will write, each with text that only this command writes into it. A file without such
            text, as a page, is the command's where one beside it has its text, or where none has any, as a picture.
        option: the option that named it and its value, for the message.
        own: names in DOCUMENTS that the command writes; such a file must be its own, too.
        sources: files that it reads.

    Raises:
        UserError: names the file that would be lost.
    """
    marked = [file for file, text in files.items() if text]
    for file, text in files.items():
        if not file.exists():
            continue
        beside = not marked or any(other.exists() for other in marked)
        known = text in file.read_text(encoding="utf-8", errors="ignore") if text else beside
        read = any(source and Path(source).exists() and file.samefile(source) for source in sources)
        if read or not known or (file.name in DOCUMENTS and file.name not in own):
            why = "this command reads it" if read else "this command did not write it"
            raise UserError(f"{option}, which would replace {file}, but {why}: give another path.")


def number_or_nan(text: str) -> float:
    """The number in a cell of a table; NaN for an empty one."""
    return float(text or "nan")


def check_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], form: Mapping[str, Callable[[str], Any]], source: str
) -> None:
    """Check the form of a table.

    Args:
        rows: texts by column, as csv.DictReader gives them.
        columns: its header.
        form: columns that it must have, with what reads their texts, such as number_or_nan; "*" stands for all others.
        source: its path, for the message.

    Raises:
        UserError: names the table, the line, what was found and what was expected.
    """
    advice = "correct it, or make this table again"
    if lacking := [column for column in form if column not in columns and column != "*"]:
        raise UserError(f"{source} has the columns {columns}, expected also {lacking}: {advice}.")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UserError(f"{source} has more or fewer cells in line {number} than columns: {advice}.")
        for column, text in row.items():
            kind = form.get(column, form.get("*", str))
            try:
                kind(text)
            except ValueError as error:
                expected = "a whole number" if kind is int else "a number"
                raise UserError(
                    f"{source} has {column} {text!r} in line {number}, expected {expected}: {advice}."
                ) from error
