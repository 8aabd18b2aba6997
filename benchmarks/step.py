"""A training step, loading and metrics included: this bundle against the authors' step in plain PyTorch."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.utils import set_determinism

from floor import floor
from measure import Apart, interleave, show
from plain_loop import PlainLoop
from scripts.data.make_datalist import make_datalist
from scripts.device import keep_freed_memory

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
METHOD = BUNDLE / "configs" / "train.yaml"


def step(
    dataset_dir: str,
    size: int,
    batch_size: int,
    widths: list[int],
    repeats: int,
    variants: Mapping[str, Mapping[str, Any]] = {},
) -> dict[str, Any]:
    """Seconds a patch, on three BraTS patients or more; the first epoch, which fills the cache, does not count."""
    with tempfile.TemporaryDirectory() as folder:
        make_datalist(dataset_dir, f"{folder}/list.json", folds=2)
        options = {"roi_size": [size] * 3, "widths": widths, "batch_size": batch_size}
        trainer = build_trainer(folder, dataset_dir, **options)
        batch = next(iter(trainer.data_loader))
        output = trainer._iteration(trainer, batch)
        confidence = trainer.parser.get_parsed_content("confidence")
        cases = sorted(path.parent for path in Path(dataset_dir).glob("*/*_t1ce.nii.gz"))
        bare_step = functools.partial(trainer._iteration, trainer, batch)
        contenders = {
            "bundle": stepper(trainer, trainer.data_loader),
            "without loader and handlers": bare_step,
            "loader alone": functools.partial(next, forever(trainer.data_loader)),
            "handlers alone": handlers(trainer, batch),
            "the teachers' Dice": lambda: confidence.accumulate(output["pred"].teachers, output["label"]),
            "plain loop": Apart(PlainLoop, cases, size, widths, trainer.state.device, refill=bare_step),
        }
        for name, changed in variants.items():
            other = build_trainer(folder, dataset_dir, **{**options, **changed})
            contenders[name] = stepper(other, other.data_loader)
        seconds, memory = interleave(contenders, repeats)
        amp = trainer.parser.get_parsed_content("amp")
        least = floor(bare_step, trainer.state.device, amp)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    least["times_floor"] = medians["without loader and handlers"] / least["floor_s"]
    least["busy"] = 1 - (medians["loader alone"] + medians["handlers alone"]) / medians["bundle"]
    print(f"\nNeither loader nor handlers: {least['busy']:.1%} of the step, {least['times_floor']:.2f} times the floor")
    patches = {"plain loop": 1} | {name: changed.get("batch_size", batch_size) for name, changed in variants.items()}
    a_patch = {n: [value / patches.get(n, batch_size) for value in values] for n, values in seconds.items()}
    title = f"A patch of {size}³ in a training step of {batch_size}, four networks, widths {widths}"
    return show(title, a_patch, memory, "bundle") | {"floor": least}


def stepper(trainer: SupervisedTrainer, batches: Iterable[Any]) -> Callable[[], None]:
    """One step of a trainer with all that its handlers do after it, on the next of the batches, over and over."""
    endless = forever(batches)

    def run() -> None:
        trainer.state.iteration += 1
        trainer.state.output = trainer._iteration(trainer, next(endless))
        trainer.fire_event(Events.ITERATION_COMPLETED)

    return run


def forever(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches over and over, after one epoch that fills the cache."""
    for _ in batches:
        pass
    return itertools.chain.from_iterable(itertools.repeat(batches))


def handlers(trainer: SupervisedTrainer, batch: Any) -> Callable[[], None]:
    """All that handlers do for a step: metrics, loss terms, schedule, progress and logging."""
    output = trainer._iteration(trainer, batch)

    def run() -> None:
        trainer.state.batch, trainer.state.output = batch, output
        trainer.fire_event(Events.ITERATION_STARTED)
        trainer.fire_event(Events.ITERATION_COMPLETED)

    return run


def build_trainer(folder: str, dataset_dir: str, widths: list[int], **options: Any) -> SupervisedTrainer:
    """The trainer of train.yaml, as in the middle of a run."""
    parser = ConfigParser()
    parser.read_config(METHOD)
    parser.update(
        {
            "bundle_root": str(BUNDLE),
            "dataset_dir": dataset_dir,
            "datalist": f"{folder}/list.json",
            "output_dir": folder,
            "ckpt_dir": folder,
            "student_widths": widths,
            "teachers::flair::network::widths": widths,
            "fold": 1,  # the smaller one, so that at least two of three patients are trained on
            "spacing": None,
            "num_workers": 0,
            "cache": "memory",
            **options,
        }
    )
    keep_freed_memory(parser.get_parsed_content("device"))
    set_determinism(0)  # on a GPU it chooses other kernels
    trainer = parser.get_parsed_content("train::trainer")
    trainer.parser = parser
    trainer.state.epoch = 1
    trainer.state.epoch_length = len(trainer.data_loader)
    trainer.fire_event(Events.EPOCH_STARTED)
    parser.get_parsed_content("loss").distilling = True
    return trainer
