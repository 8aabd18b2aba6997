"""Ignite handlers of a distillation run."""

from __future__ import annotations

import csv
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import DiskSaver
from ignite.handlers import ProgressBar as IgniteProgressBar
from monai.data import DataLoader
from monai.data.utils import set_rnd
from monai.utils import set_determinism

from scripts.confidence import TeacherConfidence
from scripts.errors import UserError
from scripts.labels import REGION_NAMES
from scripts.losses import DistillationLoss

__all__ = ["ConfidenceUpdate", "EpochSeed", "History", "LossTerms", "ProgressBar", "RegionDice", "RunCheckpoint", "WarmUp", "key_metric"]

logger = logging.getLogger(__name__)


class EpochSeed:
    """Seeds every source of randomness from (seed, epoch, rank) at the start of each epoch.

    An epoch then does not depend on those before it, so a resumed run repeats it exactly, with any number of
    workers; and ranks draw different augmentations.
    """

    def __init__(self, seed: int, loader: DataLoader) -> None:
        self.seed = seed
        self.loader = loader

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = (self.seed + 1_000_003 * engine.state.epoch + 7919 * idist.get_rank()) % 2**32
        set_determinism(seed, use_deterministic_algorithms=None)
        set_rnd(self.loader.dataset, seed)
        if hasattr(self.loader.sampler, "set_epoch"):
            self.loader.sampler.set_epoch(engine.state.epoch)


class WarmUp:
    """Switches distillation on after the first ``epochs`` epochs."""

    def __init__(self, loss: DistillationLoss, epochs: int = 1) -> None:
        self.loss = loss
        self.epochs = epochs

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        self.loss.distilling = engine.state.epoch > self.epochs


class ConfidenceUpdate:
    """Feeds TeacherConfidence with every training batch, and renews its weights after each epoch over all ranks.

    Logged by name in ``engine.state.metrics``: weight/TEACHER (used in the next epoch), dice/TEACHER.
    """

    def __init__(self, confidence: TeacherConfidence) -> None:
        self.confidence = confidence

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.update)

    def __call__(self, engine: Engine) -> None:
        self.confidence.accumulate(engine.state.output["pred"].teachers, engine.state.output["label"])

    def update(self, engine: Engine) -> None:
        self.confidence.update(reduce=idist.all_reduce)
        for name, weight, dice in zip(self.confidence.teachers, self.confidence.weights, self.confidence.dice):
            engine.state.metrics |= {f"weight/{name}": weight.item(), f"dice/{name}": dice.item()}


class LossTerms:
    """Epoch means of every named loss term over all ranks, and their sum, as loss/NAME in ``engine.state.metrics``."""

    def __init__(self, loss: DistillationLoss) -> None:
        self.loss = loss
        self.sums: dict[str, torch.Tensor] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        self.sums = {}

    def __call__(self, engine: Engine) -> None:
        for name, term in self.loss.terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + term

    def finish(self, engine: Engine) -> None:
        iterations = engine.state.epoch_length * idist.get_world_size()
        means = idist.all_reduce(torch.stack(list(self.sums.values()))) / iterations
        engine.state.metrics |= {f"loss/{name}": mean.item() for name, mean in zip(self.sums, means)}
        engine.state.metrics["loss/total"] = means.sum().item()


class ProgressBar(IgniteProgressBar):
    """Ignite's tqdm bar with the loss of the last step (of a trainer), the speed and the time left.

    Where standard error is no terminal, such as a log file, it is drawn only four times an epoch.
    """

    def __init__(self) -> None:
        super().__init__(bar_format="{desc}{n_fmt}/{total_fmt} |{bar}|{postfix} [{rate_fmt}, {remaining} left]")

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        def loss(output: Any) -> dict[str, torch.Tensor]:
            return {"loss": output["loss"]} if isinstance(output, dict) else {}

        every = 1 if sys.stderr.isatty() else max(engine.state.epoch_length // 4, 1)
        super().attach(engine, output_transform=loss, event_name=Events.ITERATION_COMPLETED(every=every))


class RegionDice:
    """Names the regions of the key metric: dice/TC, dice/WT, dice/ET in ``engine.state.metrics``.

    Args:
        key_metric: name of a metric with details of shape (patients, regions).
        output_dir: where to write ``metrics.csv``, one row per case and region; None for no file.
    """

    def __init__(self, key_metric: str, output_dir: str | None = None) -> None:
        self.key_metric = key_metric
        self.output_dir = output_dir
        self.cases: list[str] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        if self.output_dir:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.note_cases)

    def note_cases(self, engine: Engine) -> None:
        self.cases += [item["case"] for item in engine.state.batch]

    def __call__(self, engine: Engine) -> None:
        dice = engine.state.metric_details[self.key_metric]  # (patients of all ranks, regions)
        engine.state.metrics |= {f"dice/{name}": mean.item() for name, mean in zip(REGION_NAMES, dice.nanmean(dim=0))}
        if self.output_dir:
            cases = [case for part in idist.all_gather([self.cases]) for case in part] if several_ranks() else self.cases
            rows = [
                {"case": case, "region": region, "dice": f"{value:.6f}"}
                for case, values in sorted(zip(cases, dice.tolist()))
                for region, value in zip(REGION_NAMES, values)
            ]
            if idist.get_rank() == 0:
                write_table(Path(self.output_dir, "metrics.csv"), rows)


def key_metric(engine: Engine) -> float:
    """The engine's key metric, for a scheduler that steps by it."""
    return engine.state.metrics[engine.state.key_metric_name]


def several_ranks() -> bool:
    return idist.get_world_size() > 1


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, to a temporary file that is renamed; columns in the order in which they first appear."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)


class History:
    """One row an epoch in ``history.csv``: learning rates, loss terms, teachers' weights and Dice, validation Dice.

    The file is replaced after every epoch; a resumed run keeps the rows of the epochs before it.
    """

    def __init__(self, output_dir: str, evaluator: Engine) -> None:
        self.path = Path(output_dir, "history.csv")
        self.evaluator = evaluator
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def load(self, engine: Engine) -> None:
        if self.path.is_file():
            with open(self.path, newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= engine.state.epoch]

    def __call__(self, engine: Engine) -> None:
        row = {"epoch": engine.state.epoch}
        row |= {f"lr/{group['name']}": group["lr"] for group in engine.optimizer.param_groups}
        row |= engine.state.metrics
        if self.evaluator.state.epoch == engine.state.epoch:
            row |= {f"validation/{name}": value for name, value in self.evaluator.state.metrics.items()}
        self.rows.append(row)
        write_table(self.path, self.rows)


class RunCheckpoint:
    """Keeps the best student and the whole run, and restores the latter.

    After every epoch ``checkpoint.pt`` is replaced (state of ``objects``, trainer, best metric, seed); ``model.pt``
    is the student's bare state dict, replaced when the validation metric rises. Ignite's DiskSaver writes to a
    temporary file and renames it, on rank 0 only. MONAI's CheckpointSaver cannot keep one file under one name, nor
    does it remember the best metric over a restart. Attach it last, after validation and confidence.

    Args:
        ckpt_dir: folder of both files.
        student: the network that is shipped.
        objects: name -> object with state_dict and load_state_dict (networks, optimizer, scheduler, confidence).
        evaluator: the validation engine with its best metric.
        seed: the seed of EpochSeed; a resumed run must have the same.
        resume: continue from ``checkpoint.pt``.

    Raises:
        UserError: if there is nothing to resume from, or the checkpoint is of another configuration.
    """

    def __init__(
        self,
        ckpt_dir: str,
        student: torch.nn.Module,
        objects: Mapping[str, Any],
        evaluator: Engine,
        seed: int,
        resume: bool = False,
    ) -> None:
        self.path = Path(ckpt_dir, "checkpoint.pt")
        self.student = student
        self.objects = {name: item for name, item in objects.items() if item is not None}
        self.evaluator = evaluator
        self.seed = seed
        self.resume = resume
        if resume and not self.path.is_file():
            raise UserError(f"resume is set, but {self.path} does not exist: train first, or give its folder as ckpt_dir.")
        self.save = DiskSaver(ckpt_dir, require_empty=False)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.load)

    def __call__(self, engine: Engine) -> None:
        best = self.evaluator.state
        if best.best_metric_epoch == engine.state.epoch:
            self.save(self.student.state_dict(), "model.pt")
        states = {name: item.state_dict() for name, item in self.objects.items()}
        run = {
            "trainer": dict(engine.state_dict()),
            "best_metric": best.best_metric,
            "best_metric_epoch": best.best_metric_epoch,
            "seed": self.seed,
        }
        if engine.scaler is not None:
            run["scaler"] = engine.scaler.state_dict()
        self.save(states | run, self.path.name)

    def load(self, engine: Engine) -> None:
        checkpoint = torch.load(self.path, map_location=engine.state.device, weights_only=True)
        if checkpoint["seed"] != self.seed:
            raise UserError(f"seed is {self.seed}, but {self.path} was begun with --seed {checkpoint['seed']}: use that one.")
        try:
            for name, item in self.objects.items():
                item.load_state_dict(checkpoint[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"{self.path} is of another configuration: {error}. Resume with the same config.") from error
        if engine.scaler is not None and "scaler" in checkpoint:
            engine.scaler.load_state_dict(checkpoint["scaler"])
        engine.load_state_dict(checkpoint["trainer"] | {"max_epochs": engine.state.max_epochs})
        self.evaluator.state.best_metric = checkpoint["best_metric"]
        self.evaluator.state.best_metric_epoch = checkpoint["best_metric_epoch"]
        logger.info(f"Resumed {self.path} after epoch {engine.state.epoch}.")
