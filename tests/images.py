"""The stages of the Dockerfile, run in folders with fresh environments. Docker itself is not needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def stages():
    """(instruction, text) of each line of the Dockerfile, by the stage's name."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            name = rest.rpartition(" AS ")[2]
            found[name] = []
        elif line and not line.startswith("#"):
            found[name].append((instruction, rest))
    return found


def ignored(folder, names):
    """What .dockerignore leaves out: the last line counts that fits a name or a folder above it."""
    out = set()
    for name in names:
        parts = (Path(folder) / name).relative_to(ROOT).parts
        for line in (ROOT / ".dockerignore").read_text().split():
            words = line.removeprefix("!").split("/")
            if len(words) <= len(parts) and all(map(fnmatch, parts, words)):
                (out.discard if line.startswith("!") else out.add)(name)
    return out


def without_make() -> dict[str, str]:
    """The environment without what a make hands on to makes that it starts."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}


def build(name, folder):
    """Run a stage's steps with ``folder`` in the place of its WORKDIR, except apt-get; its CMD as words."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    kept = {key: value for key, value in without_make().items() if not key.startswith(("VIRTUAL_ENV", "PYTHON"))}
    environment = {**kept, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    place, command = folder / "work", []
    for instruction, text in stages()[name]:
        if instruction == "WORKDIR":
            place.mkdir(exist_ok=True)
        elif instruction == "COPY":
            assert text == ". ."
            shutil.copytree(ROOT, place, ignore=ignored, dirs_exist_ok=True)
        elif instruction == "ARG":
            option, _, default = text.partition("=")
            environment.setdefault(option, default.strip('"'))
        elif instruction == "CMD":
            command = json.loads(text)
        elif not text.startswith("apt-get"):
            assert instruction == "RUN", instruction
            text = text.replace("--no-cache-dir ", "")  # so that a package is downloaded once
            done = subprocess.run(["sh", "-c", text], cwd=place, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return place, command
