"""What is wrong with files, and the table that reports it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.errors import UserError
from scripts.files import format_table

logger = logging.getLogger(__name__)

ADVICE = "fix them, or leave these cases out (--strict False)."


class Fault(NamedTuple):
    """One thing wrong with one file of one case, and what to do about it."""

    case: str
    file: str
    fault: str
    remedy: str


class FileFault(ValueError):
    """What is wrong with a file, and what to do about it.

    Args:
        fault: in a few words.
        remedy: empty where only the caller knows it.
        path: of the file; empty where the caller knows it.
    """

    def __init__(self, fault: str, remedy: str = "", path: str | Path = "") -> None:
        super().__init__(fault)
        self.remedy = remedy
        self.path = path


def fault_of(path: str | Path) -> str:
    """What keeps a file or folder from being read: it "does not exist", or "cannot be read (why)"; "" for nothing.

    Path.exists raises an error where a folder above is closed.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""


def report_faults(faults: Sequence[Fault], strict: bool, advice: str = ADVICE, what: str = "case(s)") -> set[str]:
    """Names of the cases with faults, of which ``what`` is to be left out. All faults are reported in one table.

    Raises:
        UserError: if there is any fault and ``strict`` is set. The message is the table and the advice.
    """
    if not faults:
        return set()
    names = {fault.case for fault in faults}
    rows = [("case", "file", "fault", "remedy"), *((f.case, Path(f.file).name, f.fault, f.remedy) for f in faults)]
    table = format_table(rows, right=False)
    if strict:
        raise UserError(f"{table}\n{len(faults)} fault(s) in {len(names)} case(s): {advice}")
    logger.warning(f"\n{table}\nLeft out {len(names)} {what} with faults: {', '.join(sorted(names))}.")
    return names


def report_lacking(lacking: Sequence[str], of: int, sequences: Sequence[str], source: str) -> None:
    """Name the cases, of so many, that lack one of the sequences that a network sees. They are to be left out.

    Raises:
        UserError: if all of the cases do.
    """
    wanted = " and ".join(sequences)
    if len(lacking) == of:
        raise UserError(f"{source} has no case with {wanted}, which the network sees: add the files.")
    if lacking:
        logger.warning(
            f"Left out {len(lacking)} case(s) without {wanted}, which the network sees: {', '.join(lacking)}."
        )
