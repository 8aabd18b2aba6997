"""A folder has one writer at a time."""

from __future__ import annotations

import errno
import os
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

from scripts.errors import UserError
from scripts.files import write_error

__all__ = ["FolderLock"]


class FolderLock:
    """Keeps other processes from writing to a folder as long as this object lives; its own process may take it again.

    The system releases it if the process is killed. Files that a killed process was writing are removed.

    Args:
        folder: the folder, which is made if it does not exist.
        rank: of this process among those that work together; the first takes the lock.

    Raises:
        UserError: if another process holds the folder, or it cannot be written.
    """

    def __init__(self, folder: str, rank: int = 0) -> None:
        key = str(Path(folder).resolve())
        self.hold = HELD.get(key)
        if rank == 0 and self.hold is None:
            HELD[key] = self.hold = Hold(Path(folder, ".lock"))


class Hold:
    """An open and locked file, which is removed when this object ends."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = locked(path)
        except BlockingIOError as error:
            raise UserError(
                f"{path.parent} is in use: another process writes to it. Wait until it ends, or give another folder."
            ) from error
        except OSError as error:
            raise write_error(path, error) from error
        os.register_at_fork(after_in_child=file.close)  # else loading processes would hold it after a kill
        weakref.finalize(self, release, path, file)
        for stale in [*path.parent.glob(".part_*"), *path.parent.glob("models/.part_*")]:
            stale.unlink(missing_ok=True)


HELD: weakref.WeakValueDictionary[str, Hold] = weakref.WeakValueDictionary()  # by folder, in this process


def locked(path: Path) -> IO[str]:
    """The file, open and locked if the file system has locks. Raises BlockingIOError if another process holds it."""
    while True:
        file = open(path, "a", opener=open_no_link)  # noqa: SIM115 open as long as it is locked
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # on Windows
            return file
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                return file
            file.close()
            raise
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            return file
        file.close()  # another process removed it at its end


def open_no_link(path: str, flags: int) -> int:
    """A file descriptor of the file itself: a link could lead out of the folder."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def release(path: Path, file: IO[str]) -> None:
    """Remove a locked file and close it; loading processes have closed theirs and leave it."""
    if not file.closed:
        with suppress(OSError):  # the folder may be read-only by now; who comes next takes the file over
            path.unlink(missing_ok=True)
        file.close()
