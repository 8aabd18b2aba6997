"""Documents from outside: what form they must have."""

from __future__ import annotations

from typing import Any

from scripts.errors import UserError

__all__ = ["check_form"]


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
        kinds = " or ".join(item.__name__ for item in known)
        found = f"{type(value).__name__} {str(value)[:60]!r}"
        raise UserError(f"{source}: {part_name} is a {found}, expected {kinds}: {advice}.")
    for key, part in form.items() if isinstance(form, dict) else ():
        key, optional = key.removesuffix("?"), key.endswith("?")
        if key in value:
            check_form(value[key], part, source, f"{name}::{key}" if name else key)
        elif not optional:
            keys = ", ".join(map(str, value)) or "nothing"
            raise UserError(f"{source}: {part_name} has no {key}, only {keys}: {advice}.")
    for index, item in enumerate(value if isinstance(form, list) else ()):
        check_form(item, form[0], source, f"{name}::{index}" if name else str(index))
