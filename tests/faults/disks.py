"""A small disk of its own for a command: a tmpfs that can be full or read-only."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class Disk:
    """A tmpfs. ``fill`` and ``forbid`` take away room and the right to write, ``free`` gives them back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filler = folder / "filler"
        self.bound = False

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes free."""
        with open(self.filler, "ab", buffering=0) as file:
            while (rest := self.room() - left) > 0:
                try:
                    os.posix_fallocate(file.fileno(), file.tell(), max(rest - 4096, 1))
                    file.seek(0, os.SEEK_END)
                except OSError:  # a command took it meanwhile
                    continue

    def room(self) -> int:
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def forbid(self) -> None:
        """Make it read-only, also for files that are opened later by a command that runs."""
        mount("--bind", self.folder, self.folder)
        self.bound = True
        for _ in range(100):  # the system does not do it while a file is open for writing
            with suppress(subprocess.CalledProcessError):
                return mount("-o", "remount,bind,ro", self.folder)
            time.sleep(0.02)
        mount("-o", "remount,bind,ro", self.folder)

    def free(self) -> None:
        if self.bound:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
        self.bound = False
        self.filler.unlink(missing_ok=True)


@contextmanager
def disk(folder: Path, megabytes: int = 32) -> Iterator[Disk]:
    """A disk at a folder that does not exist yet; skips the test where mounts are not allowed."""
    folder.mkdir(parents=True)
    try:
        mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk needs the right to mount ({error})")
    made = Disk(folder)
    try:
        yield made
    finally:
        made.free()
        subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True, capture_output=True)
