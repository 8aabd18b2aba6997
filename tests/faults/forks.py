"""Commands of the bundle as real processes, of which each starts in milliseconds: a parent with all imports forks them.

``python tests/faults/forks.py`` is the parent. It reads one request a line from its input, in JSON, and answers in one:
{"module", "arguments", "log", "environment"} starts ``python -m MODULE ARGUMENTS`` and answers its process id;
{"wait": id} answers its exit code.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"


class Command:
    """A running command; its output is in the file ``log``."""

    def __init__(self, parent: Parent, pid: int, log: Path) -> None:
        self.parent, self.pid, self.log = parent, pid, log
        self.code: int | None = None

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)  # until it was waited for, the number is not another process's

    def ended(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def wait(self, timeout: float = 400) -> int:
        """The exit code, negative after a signal. Ends the command after the timeout, in seconds."""
        if self.code is None:
            self.until(self.ended, timeout)
            self.code = self.parent.ask(wait=self.pid)
        return self.code

    def until(self, condition: Callable[[], object], timeout: float = 400, pause: float = 0.002) -> None:
        """Wait for a condition, or fail and end the command."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{condition} in {timeout} s: {self.text()[-2000:]}")
            time.sleep(pause)

    def text(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""


class Parent:
    """The parent of commands, which has imported PyTorch, MONAI and the bundle."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        line = [sys.executable, __file__]
        self.process = subprocess.Popen(
            line, cwd=BUNDLE, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: object) -> int:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(self, log: Path, module: str, *arguments: object, **environment: str) -> Command:
        words = [str(argument) for argument in arguments]
        pid = self.ask(module=module, arguments=words, log=str(log), environment=environment)
        return Command(self, pid, log)

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=100)
        self.process.stdout.close()


@contextlib.contextmanager
def parent() -> Iterator[Parent]:
    """A parent of commands, which ends with the block."""
    started = Parent()
    try:
        yield started
    finally:
        started.close()


def serve() -> None:
    """Answer requests until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif not (answer := os.fork()):
            become(request["module"], request["arguments"], request["log"], request["environment"])
        print(json.dumps(answer), flush=True)


def become(module: str, arguments: Sequence[str], log: str, environment: Mapping[str, str]) -> None:
    """Do in this process what ``python -m MODULE ARGUMENTS`` does, in a session of its own."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a shell ignores
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in enumerate([nothing, file, file]):
        os.dup2(source, number)
    os.close(file), os.close(nothing)
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


def import_all() -> None:
    """Import what the commands import. No thread starts by it, so that the process can be forked."""
    sys.path.insert(0, str(BUNDLE))
    for path in sorted((BUNDLE / "scripts").rglob("*.py")):
        name = ".".join(path.relative_to(BUNDLE).with_suffix("").parts)
        if path.stem not in ("__init__", "__main__"):
            importlib.import_module(name)
    for name in (
        "monai.bundle",
        "monai.engines",
        "monai.handlers",
        "monai.apps",
        "monai.networks.nets",
        "torch._dynamo",
    ):
        importlib.import_module(name)


if __name__ == "__main__":
    import_all()
    serve()
