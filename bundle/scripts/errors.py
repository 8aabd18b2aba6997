"""How a mistake of the user ends a command: a sentence, exit code 1, no traceback."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType

__all__ = ["UserError", "print_sentence"]


class UserError(SystemExit):
    """A mistake in the user's input: what was found where, what was expected, what to do.

    A ``SystemExit``, since MONAI wraps every ordinary exception of a config into a traceback.
    """


def print_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A ``sys.excepthook`` for MONAI's commands: of a ValueError that these scripts raised, its sentence alone.

    Losses, networks and fusion refuse a value with a ValueError, which a program can catch. Other errors keep their
    traceback.
    """
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    frames = traceback.extract_tb(cause.__traceback__)
    if isinstance(cause, ValueError) and frames and Path(frames[-1].filename).parent == Path(__file__).parent:
        parts = [str(error).partition(" with keywords")[0]] if error is not cause else []
        print(": ".join([*parts, str(cause)]), file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
