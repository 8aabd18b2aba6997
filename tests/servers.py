"""Servers that tests start, wait for and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class Server:
    """A program in a process group of its own, which answers at ``uri`` + ``path`` once it is ready.

    Its output is added to ``log``.
    """

    def __init__(self, line: Sequence[str], uri: str, path: str, folder: Path, log: Path) -> None:
        self.line, self.uri, self.path, self.folder, self.log = line, uri, path, folder, log
        self.process: subprocess.Popen | None = None

    def start(self, environment: Mapping[str, str] | None = None) -> Server:
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                self.line,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.wait()
        except BaseException:  # Ctrl-C, too, must leave no program behind
            self.end()
            raise
        return self

    def wait(self) -> None:
        """Wait until the program answers."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                return urllib.request.urlopen(f"{self.uri}{self.path}", timeout=5).close()
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text()[-3000:])

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the program and all that it started, if it runs."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None


def mlflow_server(folder: Path, port: int) -> Server:
    """``mlflow server`` on loopback: SQLite, artifacts in a folder. It is not started yet."""
    uri, store = f"http://127.0.0.1:{port}", f"sqlite:///{folder}/store.db"
    line = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    return Server(line, uri, "/health", folder, folder / "server.log")
