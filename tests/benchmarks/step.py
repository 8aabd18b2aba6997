"""Seconds of a training step, loading and metrics included: this bundle against the authors' step in plain PyTorch.

python tests/benchmarks/step.py --dataset_dir DIR [--size 64] [--widths "[8,16,32,64]"] [--repeats 5] [--output FILE]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import fire
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bundle"), str(Path(__file__).parent)]

from measure import interleave, show, write  # noqa: E402
from plain_loop import PlainLoop  # noqa: E402

from scripts.datalist import make_datalist  # noqa: E402


def step(
    dataset_dir: str,
    size: int = 64,
    widths: tuple = (8, 16, 32, 64),
    repeats: int = 5,
    output: str = "benchmark/step.json",
) -> None:
    """Print and write the table; DIR holds at least three BraTS patients. Batches of 1, as the authors."""
    with tempfile.TemporaryDirectory() as folder:
        make_datalist(dataset_dir, f"{folder}/list.json", folds=2)
        trainer = build_trainer(folder, dataset_dir, size, list(widths))
        batches = endless(trainer.data_loader)

        def ours() -> None:
            trainer.state.iteration += 1
            trainer.state.output = trainer._iteration(trainer, next(batches))
            trainer.fire_event(Events.ITERATION_COMPLETED)  # confidence, loss terms, learning rate, progress

        cases = sorted(path for path in Path(dataset_dir).iterdir() if path.is_dir())
        plain = PlainLoop(cases, size, list(widths), trainer.state.device)
        for _ in trainer.data_loader:  # the first epoch fills the cache
            pass
        seconds = interleave({"bundle": ours, "plain loop": plain.step}, repeats)
    title = f"Training step of four networks, {size}³, widths {list(widths)}, batch 1, loading and metrics included"
    write(output, {"title": title, "results": show(title, seconds, "bundle")})


def endless(loader: Iterable) -> Iterator:
    """Batches, epoch after epoch."""
    while True:
        yield from loader


def build_trainer(folder: str, dataset_dir: str, size: int, widths: list[int]):
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundle" / "configs" / "train.yaml"))
    parser.update(
        {
            "bundle_root": str(ROOT / "bundle"),
            "dataset_dir": dataset_dir,
            "datalist": f"{folder}/list.json",
            "output_dir": folder,
            "ckpt_dir": folder,
            "roi_size": [size] * 3,
            "student_widths": widths,
            "teacher_widths": widths,
            "batch_size": 1,
            "num_workers": 0,
            "cache": "memory",
            "distillation_warm_up": 0,
        }
    )
    trainer = parser.get_parsed_content("train::trainer")
    trainer.state.epoch = 1
    trainer.state.epoch_length = len(trainer.data_loader)
    parser.get_parsed_content("loss").distilling = True
    torch.manual_seed(0)
    return trainer


if __name__ == "__main__":
    fire.Fire(step)
