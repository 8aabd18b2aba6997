"""How a user's mistake ends a command: with a sentence and exit code 1, without a traceback."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType

__all__ = ["UserError", "print_sentence"]


class UserError(SystemExit):
    """A mistake in the user's input: what was found where, what was expected, what to do.

    It is a ``SystemExit``, because MONAI wraps every ordinary exception of a config into a traceback.
    """


def print_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print only the sentence of a ValueError that these scripts raised: a ``sys.excepthook`` for MONAI's commands.

    Losses, networks and fusion raise a ValueError for a wrong value, so that a program can catch it. Other errors keep
    their traceback.
    """
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    frames = traceback.extract_tb(cause.__traceback__)
    if isinstance(cause, ValueError) and frames and Path(__file__).parent in Path(frames[-1].filename).parents:
        parts = [str(error).partition(" with keywords")[0]] if error is not cause else []
        print(": ".join([*parts, str(cause)]), file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
