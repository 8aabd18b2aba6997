"""A folder has one writer at a time, or several that share the patients."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from scripts.errors import UserError
from scripts.files import write_error

logger = logging.getLogger(__name__)


class FolderLock:
    """Keeps other processes from writing to a folder as long as this object lives; its own process may take it again.

    The system releases it if the process is killed. Files that a killed process was writing are removed, except in its
    cache.

    Args:
        folder: the folder, which is made if it does not exist.
        rank: of this process among those that work together; the first takes the lock.
        shard: name of a share of the patients. The shards of a folder work side by side.
        wait: seconds to wait for another process, which holds the folder for a moment only.

    Raises:
        UserError: if another process holds the folder, or it cannot be written.
    """

    def __init__(self, folder: str, rank: int = 0, shard: str = "", wait: float = 0) -> None:
        path = Path(folder).resolve() / (f".lock_{shard.replace('/', '_of_')}" if shard else ".lock")
        self.hold = HELD.get(path)
        if rank == 0 and self.hold is None:
            HELD[path] = self.hold = Hold(path, time.monotonic() + wait)
            if not (shard or wait):
                keep_out_shards(path.parent)
                remove_leftovers(path.parent)


class Hold:
    """An open and locked file, which is removed when this object ends."""

    def __init__(self, path: Path, latest: float = 0) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = locked(path, latest)
        except BlockingIOError as error:
            raise UserError(
                f"{path.parent} is in use: another process writes to it. Wait until it ends, or give another folder."
            ) from error
        except OSError as error:
            raise write_error(path, error) from error
        os.register_at_fork(after_in_child=file.close)  # else loading processes would hold it after a kill
        weakref.finalize(self, release, path, file)


def keep_out_shards(folder: Path) -> None:
    """Raises UserError if a shard writes to the folder."""
    for lock in folder.glob(".lock_*"):
        Hold(lock)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing. The draft of a report that is being drawn is locked, and stays."""
    for stale in [path for place in (".", "models", "images") for path in folder.glob(f"{place}/.part_*")]:
        stale.unlink(missing_ok=True)
    for draft in folder.glob(".draft_*"):
        if draft.is_symlink():  # it could lead out of the folder
            continue
        with suppress(UserError):
            Hold(draft / ".lock")
            shutil.rmtree(draft, ignore_errors=True)


HELD: weakref.WeakValueDictionary[Path, Hold] = weakref.WeakValueDictionary()  # by lock, in this process


def locked(path: Path, latest: float) -> IO[str]:
    """The file, open and locked if the file system has locks. Raises BlockingIOError if it is held after ``latest``."""
    while True:
        file = open(path, "a", opener=open_no_link)  # noqa: SIM115 open as long as it is locked
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # on Windows
            return file
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                warn_of_no_locks(path.parent)
                return file
            file.close()
            if not isinstance(error, BlockingIOError) or time.monotonic() > latest:
                raise
            time.sleep(0.1)
            continue
        with suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()  # another process removed it at its end


@cache  # once for each folder
def warn_of_no_locks(folder: Path) -> None:
    """Warn that nothing keeps a second writer out of a folder."""
    logger.warning(
        f"{folder} is on a file system without locks, so a second command that writes to it is not noticed: run only "
        "one at a time, also of shares (--shard)."
    )


def open_no_link(path: str, flags: int) -> int:
    """A file descriptor of the file itself: a link could lead out of the folder."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def release(path: Path, file: IO[str]) -> None:
    """Remove a locked file and close it; loading processes have closed theirs and leave it."""
    if not file.closed:
        with suppress(OSError):  # the folder may be read-only by now; who comes next takes the file over
            path.unlink(missing_ok=True)
        file.close()
