"""A training step, loading and metrics included: this bundle against the authors' step in plain PyTorch."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from measure import interleave, show
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from plain_loop import PlainLoop

from scripts.datalist import make_datalist
from scripts.handlers import ConfidenceUpdate

__all__ = ["build_trainer", "step"]

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"


def step(dataset_dir: str, size: int, widths: list[int], repeats: int) -> dict[str, Any]:
    """Batches of 1, as the authors; three BraTS patients or more. Without the first epoch, which fills the cache."""
    with tempfile.TemporaryDirectory() as folder:
        make_datalist(dataset_dir, f"{folder}/list.json", folds=2)
        trainer = build_trainer(folder, dataset_dir, roi_size=[size] * 3, widths=widths)
        precise = build_trainer(folder, dataset_dir, roi_size=[size] * 3, widths=widths, amp=False)
        last = build_trainer(folder, dataset_dir, roi_size=[size] * 3, widths=widths, channels_last=True)
        bare = build_trainer(folder, dataset_dir, roi_size=[size] * 3, widths=widths)
        batch = next(iter(bare.data_loader))
        trainer.state.output = trainer._iteration(trainer, batch)
        confidence = ConfidenceUpdate(ConfigParser.get_parsed_content(trainer.parser, "confidence"))
        cases = sorted(path for path in Path(dataset_dir).iterdir() if path.is_dir())
        plain = PlainLoop(cases, size, widths, trainer.state.device)
        seconds, memory = interleave(
            {
                "bundle": stepper(trainer),
                "bundle, float32": stepper(precise),
                "bundle, channels last": stepper(last),
                "bundle without loader and handlers": lambda: bare._iteration(bare, batch),
                "the teachers' Dice": lambda: confidence(trainer),
                "plain loop": plain.step,
            },
            repeats,
        )
    return show(f"Training step of four networks, {size}³, widths {widths}, batch 1", seconds, memory, "bundle")


def stepper(trainer: SupervisedTrainer) -> Callable[[], None]:
    """One step of a trainer with all that its handlers do after it."""
    for _ in trainer.data_loader:
        pass
    batches = itertools.chain.from_iterable(itertools.repeat(trainer.data_loader))

    def run() -> None:
        trainer.state.iteration += 1
        trainer.state.output = trainer._iteration(trainer, next(batches))
        trainer.fire_event(Events.ITERATION_COMPLETED)

    return run


def build_trainer(folder: str, dataset_dir: str, widths: list[int], **options: Any) -> SupervisedTrainer:
    """The trainer of train.yaml, as in the midst of a run."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.yaml"))
    parser.update(
        {
            "bundle_root": str(BUNDLE),
            "dataset_dir": dataset_dir,
            "datalist": f"{folder}/list.json",
            "output_dir": folder,
            "ckpt_dir": folder,
            "student_widths": widths,
            "teacher_widths": widths,
            "batch_size": 1,
            "num_workers": 0,
            "cache": "memory",
            **options,
        }
    )
    torch.manual_seed(0)
    trainer = parser.get_parsed_content("train::trainer")
    trainer.parser = parser
    trainer.state.epoch = 1
    trainer.state.epoch_length = len(trainer.data_loader)
    parser.get_parsed_content("loss").distilling = True
    return trainer
