"""Write files completely or not at all, read them, and format tables."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scripts.documents import check_form, check_rows, check_unowned
from scripts.errors import UserError

logger = logging.getLogger(__name__)

AGAIN = "then run the command again (a training with --resume auto)"
NO_SPACE = f"make room, {AGAIN}"
TOO_LARGE = f"raise the limit of a file's size (ulimit -f) or take another file system (FAT32 ends at 4 GB), {AGAIN}"
NO_RIGHT = "give a folder that may be written to"
BYTES = "surrogateescape"  # names in tables stay the same, whatever their bytes are
REMEDIES = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: NO_SPACE,
    errno.EFBIG: TOO_LARGE,
    errno.EROFS: NO_RIGHT,
    errno.EACCES: NO_RIGHT,
    errno.EPERM: NO_RIGHT,
    errno.ENAMETOOLONG: "give a shorter name",
}


@contextmanager
def replacing(path: Path, needed: int = 0) -> Iterator[Path]:
    """A hidden file to write to. It replaces ``path`` at the end and is removed after an error.

    Args:
        path: the file.
        needed: its size in bytes, where it is known.

    Raises:
        UserError: if the system cannot write the file: which file, why, and what to do.
    """
    partial = path.with_name(f".part_{os.getpid()}_{zlib.crc32(os.fsencode(path.name)):x}{''.join(path.suffixes[-2:])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except Exception as error:
        cause: BaseException | None = error  # PyTorch hides the system's error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause.errno is None:
            raise
        raise write_error(path, cause, needed) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_error(path: Path, error: OSError, needed: int = 0) -> UserError:
    """What the system said about a file or folder that it cannot write, the room there, and what to do."""
    remedy = REMEDIES.get(error.errno or 0, "give another path")
    room = ""
    if remedy == NO_SPACE:
        there = next(folder for folder in path.absolute().parents if folder.exists())
        room = f": {shutil.disk_usage(there).free / 1e6:.1f} MB are free"
        room += f", {needed / 1e6:.1f} MB are needed" if needed else ""
    return UserError(f"{path} cannot be written ({error.strerror}){room}: {remedy}.")


def write_text(path: Path, text: str) -> None:
    """Write a text file; bytes of a file name that are no UTF-8, as of old CDs, stand in it as \\udcfc."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, NaN as null."""
    write_text(path, json.dumps(without_nan(document), indent=1) + "\n")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV. Columns are in the order of their first appearance."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8", errors=BYTES) as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path, form: Mapping[str, Callable[[str], Any]] | None = None) -> list[dict[str, Any]]:
    """Rows of a CSV file with text values; no rows if the file does not exist.

    Args:
        path: the file.
        form: columns that it must have, with what reads their texts: int, float, figure; "*" stands for all others.

    Raises:
        UserError: if it cannot be read, or has another form.
    """
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8-sig", errors=BYTES) as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): make this table again.") from error
    check_rows(rows, columns, form or {}, str(path))
    return rows


def read_json(path: str | Path, key: str, form: dict[str, Any] | None = None) -> dict:
    """The mapping in a JSON file. ``key`` is the option that named the file, ``form`` as for ``check_form``.

    Raises:
        UserError: if the file is missing or is not a JSON mapping of this form.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{key} {path} cannot be read ({error.strerror}): give the path of a JSON file.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{key} {path} is not JSON ({error}): make it again.") from error
    check_form(document, form or {}, f"{key} {path}")
    return document


def read_own_json(path: Path, key: str, form: dict[str, Any]) -> dict | None:
    """As ``read_json``; None, and a line, for a document of another form, as other programs write by the same name."""
    document = read_json(path, key)
    try:
        check_form(document, form, f"{key} {path}")
    except UserError as error:
        logger.info(f"{error} It is no document of ours, so it is not used.")
        return None
    return document


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file; an empty path gives the digest of empty input."""
    return hashlib.sha256(Path(path).read_bytes() if path else b"").hexdigest()


def check_folder(folder: str | Path, key: str) -> None:
    """Check before any work that a folder, or the nearest one above it that exists, can be written to.

    Raises:
        UserError: if it cannot: the folder, why, and what to do.
    """
    path = Path(folder).absolute()
    try:
        there = next(part for part in (path, *path.parents) if part.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{key} is '{folder}', expected a folder to write to: {write_error(path, error)}") from error


def check_output(
    path: str,
    key: str,
    suffix: str,
    beside: Mapping[str, str] | None = None,
    own: Sequence[str] = (),
    sources: Sequence[str | Path | None] = (),
) -> None:
    """Check before any work that a file can be written and replaces no document of another command; make its folder.

    Args:
        path: the file.
        key: the option that names it.
        suffix: what its name must end in.
        beside: suffixes of it and of the files that the command writes next to it, with text that only they hold.
        own: names of documents that the command may replace.
        sources: files that the command reads.

    Raises:
        UserError: if it cannot, or would replace one.
    """
    target = Path(path)
    try:
        if target.is_dir() or target.suffix != suffix:
            raise UserError(f"{key} is {path!r}, expected the path of a {suffix} file to write.")
        target.parent.mkdir(parents=True, exist_ok=True)
        files = {target: ""} | {target.with_suffix(other): word for other, word in (beside or {}).items()}
        check_unowned(files, f"{key} is {path!r}", own, sources)
    except OSError as error:
        raise UserError(f"{key} {write_error(target, error)}") from error
    check_folder(target.parent, key)


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of every leaf of nested mappings and lists, with keys in MONAI's form, such as a::b::0."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if not isinstance(value, (Mapping, list)) or not value:
        yield name, value
    for key, item in items:
        yield from flatten(item, f"{name}::{key}" if name else str(key))


def format_table(rows: Sequence[Sequence[str]], right: bool = True) -> str:
    """A text table of cells. The first row is the header. ``right`` aligns all columns but the first to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if right and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    lines = [line.rstrip() for line in lines]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def without_nan(value: Any) -> Any:
    """The value, in which None replaces NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
