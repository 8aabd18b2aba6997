"""A small training: its command, what it leaves, and whether that is what an undisturbed one leaves."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from conftest import ALONE, METHOD, TINY, TINY_TEACHERS
from faults.forks import Command, Parent
from scripts.files import read_table

EPOCHS = 5


class Training:
    """A training of five epochs of two steps.

    Args:
        commands: starts it.
        small: the folder of the patients.
        folder: of the run.
        method: mtcm_kd or student_alone.
        options: further ones, of every start.
    """

    def __init__(self, commands: Parent, small: Path, folder: Path, method: str, *options: object) -> None:
        self.commands, self.small, self.folder, self.method, self.options = commands, small, folder, method, options
        self.models = folder / "models"
        self.seconds = 0.0

    def start(self, *options: object, log: Path | None = None, **environment: str) -> Command:
        alone = self.method == "student_alone"
        return self.commands.start(
            log or self.folder.with_suffix(".log"), "monai.bundle", "run", "training",
            "--config_file", ALONE if alone else METHOD, *TINY, *([] if alone else TINY_TEACHERS), *data(self.small),
            "--output_dir", self.folder, "--ckpt_dir", self.models,
            "--epochs", EPOCHS, "--val_interval", 2, "--batch_size", 1, *self.options, *options, **environment,
        )  # fmt: skip

    def succeed(self, *options: object, log: Path | None = None) -> None:
        """Run it to its end."""
        started = time.monotonic()
        command = self.start(*options, log=log)
        code = command.wait()
        assert code == 0, command.text()[-3000:]
        self.seconds = time.monotonic() - started

    def check_same(self, reference: Training) -> None:
        """Check that it left what the reference left, bit for bit, and nothing else."""
        names, wanted = (sorted(str(p.relative_to(run.folder)) for p in run.files()) for run in (self, reference))
        assert names == wanted
        for name in ("checkpoint.pt", "model.pt"):
            states = [torch.load(run.models / name, weights_only=True) for run in (self, reference)]
            assert same(*(drop_settings(state) for state in states)), name
        assert read_table(self.folder / "history.csv") == read_table(reference.folder / "history.csv")

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


def data(small: Path) -> list[str]:
    return ["--dataset_dir", str(small / "data"), "--datalist", str(small / "datalist.json")]


def make_small(commands: Parent, folder: Path, cases: int = 3) -> Path:
    lines: list[list[object]] = [
        ["phantom", "--output_dir", folder / "data", "--cases", cases, "--size", 32, "--seed", 3],
        ["datalist", "--dataset_dir", folder / "data", "--output", folder / "datalist.json", "--folds", 3],
    ]
    for line in lines:
        command = commands.start(folder / f"{line[0]}.log", "scripts", *line)
        assert command.wait() == 0, command.text()
    return folder


def drop_settings(state: dict) -> dict:
    return {key: value for key, value in state.items() if key != "settings"}


def same(first: object, second: object) -> bool:
    """Whether two nested states are equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second
