"""How a user's mistake ends a command: with a sentence and exit code 1, without a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

WORKER = "DataLoader worker (pid"  # PyTorch's words for a loading process that ended
WORKER_ENDED = "A loading process was killed (memory?): run again (train: --resume True), with fewer --num_workers."


class UserError(ValueError):
    """A mistake in the user's input: what was found where, what was expected, what to do."""


def reason_of(error: BaseException, line: int = 0) -> str:
    """One line of an error's text, up to 200 characters and without its full stop; its kind if it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[line].strip()[:200].rstrip(".")


def root_of(error: BaseException) -> BaseException:
    """The error that caused this one: MONAI wraps errors into errors of the transform."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def kind_and_reason(error: BaseException) -> str:
    """The error's kind and the first line of its text."""
    return f"{type(error).__name__}: {reason_of(error)}"


def find_sentence(error: BaseException) -> str | None:
    """The sentence of the UserError behind an error; None if there is none.

    MONAI and loading processes put it into an error of their own, as its cause or as text.
    """
    title, cause = f"{UserError.__module__}.{UserError.__qualname__}: ", error
    while cause.__cause__ is not None and not isinstance(cause, UserError) and WORKER not in str(cause):
        cause = cause.__cause__
    if WORKER in str(cause):
        return WORKER_ENDED
    found = isinstance(cause, UserError) or title in str(cause)
    return str(cause).rpartition(title)[2].strip() if found else None


def print_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print only the sentence of an error of these scripts, or of Ctrl-C; other errors keep their traceback."""
    stopped = isinstance(error, KeyboardInterrupt)
    if sentence := "Stopped." if stopped else find_sentence(error):
        print(sentence, file=sys.stderr, flush=True)
        at_once = stopped and not hasattr(sys, "ps1")  # while other threads run, Python's own end may abort
        return os._exit(130) if at_once else None
    cause = root_of(error)
    frames = traceback.extract_tb(cause.__traceback__)
    if isinstance(cause, ValueError) and frames and Path(__file__).parent in Path(frames[-1].filename).parents:
        parts = [str(error).partition(" with keywords")[0]] if error is not cause else []
        print(": ".join([*parts, str(cause)]), file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
