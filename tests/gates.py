"""A training that waits before a chosen step, so that a test can stop it there on any machine."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from types import FrameType

import yaml
from ignite.engine import Engine, Events


class Gate:
    """Before step number ``step`` of the run it writes FOLDER/reached, and waits for SIGTERM, which it passes on."""

    def __init__(self, folder: str, step: int) -> None:
        self.folder, self.step = Path(folder), step

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED(once=self.step), self)

    def __call__(self, engine: Engine) -> None:
        handler, received = signal.getsignal(signal.SIGTERM), list[int]()

        def receive(number: int, frame: FrameType | None) -> None:
            received.append(number)
            handler(number, frame)

        signal.signal(signal.SIGTERM, receive)
        (self.folder / "reached").touch()
        while not received:
            time.sleep(0.01)
        signal.signal(signal.SIGTERM, handler)


def gate(folder: Path, step: int) -> Path:
    """An overlay that puts a gate into a training."""
    folder.mkdir()
    handler = {"_target_": "gates.Gate", "folder": str(folder), "step": step}
    keys = {"code_dir": str(Path(__file__).parent), "+train::handlers": [handler]}
    (folder / "gate.yaml").write_text(yaml.safe_dump(keys))
    return folder / "gate.yaml"


def wait_at(folder: Path, process: subprocess.Popen) -> None:
    """Until the training waits at the gate of this folder."""
    deadline = time.monotonic() + 120
    while not (folder / "reached").exists():
        assert process.poll() is None, f"{folder}: the training ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{folder}: the gate was not reached in two minutes"
        time.sleep(0.01)
