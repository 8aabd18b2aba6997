"""Why a part of the config cannot be built: one sentence with its key, in place of MONAI's traceback."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from traceback import extract_tb
from types import TracebackType

from scripts.documents import correction
from scripts.errors import find_sentence, kind_and_reason, print_sentence, reason_of, root_of

SCRIPTS = Path(__file__).resolve().parents[1]
LIBRARIES = re.compile(r"site-packages|dist-packages|[/\\]python3[.\d]*[/\\]|^<")


def print_part_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """``print_sentence``, which also knows errors of MONAI while it builds the config's parts."""
    known = isinstance(error, KeyboardInterrupt) or find_sentence(error)
    if sentence := None if known else part_sentence(error):
        print(sentence, file=sys.stderr, flush=True)
    else:
        print_sentence(kind, error, trace)


def part_sentence(error: BaseException) -> str | None:
    """The sentence on an error of MONAI's ConfigParser; None for other errors, and for faults of these scripts.

    A ValueError is not their fault if they raise it themselves, or a library does while they build an object.
    """
    key, text = key_of(error.__traceback__), str(error)
    if key and text.startswith("the referring item"):
        near = re.search("did you mean '(.+?)'", str(error.__cause__))
        way = f"; did you mean @{near[1]}?" if near else ": name a part that is there, or take away what refers to it."
        return f"{key} refers to {text.split('`')[1]}, which is not in the config{way}"
    if not key or not text.startswith("Failed to instantiate component"):
        return None
    cause = root_of(error)
    frames = extract_tb(cause.__traceback__)
    ours = [frame for frame in frames if SCRIPTS in Path(frame.filename).parents]
    said = isinstance(cause, ValueError) and ours[-1:] == frames[-1:]  # a sentence of these scripts, which is not cut
    if ours and not (said or (isinstance(cause, ValueError) and ours[0].name == "__init__")):
        return None
    own = [f for f in frames if f not in ours and not LIBRARIES.search(f.filename) and Path(f.filename).is_file()]
    place = f" (line {own[-1].lineno} of {own[-1].filename})" if own else ""
    reason = " ".join(str(cause).split()).rstrip(".") if said else reason_of(cause)
    return f"{key} ({text.split(chr(39))[1]}) cannot be built: {type(cause).__name__}: {reason}{place}."


def key_of(trace: TracebackType | None) -> str:
    """The key of the part that MONAI was resolving when an error was raised; "" if it was at none."""
    key = ""
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_resolve_one_item":
            key = str(trace.tb_frame.f_locals["id"])
        trace = trace.tb_next
    return key


def why_not_found(target: str) -> str:
    """The end of a sentence that says that there is no such class or function: why, and what to do."""
    module, _, name = target.rpartition(".")
    missing = ": give MONAI's name or the full path, and --code_dir for a module of your own."
    if not module:
        return missing
    try:
        found = importlib.import_module(module)
    except Exception as error:  # of the user's own code, too
        absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        return missing if absent else f": {module} fails with {kind_and_reason(error)}."
    if hasattr(found, name):
        return ": it is no class or function."
    return correction(name, dir(found), f": {found.__name__} has no {name}.")
