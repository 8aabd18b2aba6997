"""The ignite handler that keeps the best student and the whole run on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import DiskSaver

from scripts.errors import UserError
from scripts.provenance import sha256

__all__ = ["RunCheckpoint"]

logger = logging.getLogger(__name__)

SCHEDULE = ("t_total", "warmup_steps")  # steps, of WarmupCosineSchedule: a run that goes on has those of its epochs


class RunCheckpoint:
    """Keeps the best student and the whole run, and restores the latter.

    After every epoch ``checkpoint.pt`` is replaced (state of ``objects``, trainer, best metric, settings); ``model.pt``
    is the student's bare state dict, replaced when the validation metric rises. Ignite's DiskSaver writes to a
    temporary file and renames it, on rank 0 only. MONAI's CheckpointSaver cannot keep one file under one name, nor
    does it remember the best metric over a restart. Attach it last, after validation and confidence.

    Args:
        ckpt_dir: folder of both files.
        student: the network that is shipped.
        objects: name -> object with state_dict and load_state_dict (networks, optimizer, scheduler, confidence).
        evaluator: the validation engine with its best metric.
        settings: what a resumed run must have in common with the one that it continues, such as seed and fold.
        resume: continue from ``checkpoint.pt``; "auto" if there is one, for jobs that are restarted.

    Raises:
        UserError: if there is nothing to resume from, or the checkpoint is of another configuration, or not what the
            other processes go on from.
    """

    def __init__(
        self,
        ckpt_dir: str,
        student: torch.nn.Module,
        objects: Mapping[str, Any],
        evaluator: Engine,
        settings: Mapping[str, Any],
        resume: bool | str = False,
    ) -> None:
        self.path = Path(ckpt_dir, "checkpoint.pt")
        resume = self.path.is_file() if resume == "auto" else resume
        self.student = student
        self.objects = {name: item for name, item in objects.items() if item is not None}
        self.evaluator = evaluator
        self.settings = dict(settings)
        self.resume = resume
        self.check_presence()
        if not resume and self.path.is_file():
            logger.warning(f"{self.path} is of an earlier run and will be replaced: --resume True would continue it.")
        self.save = DiskSaver(ckpt_dir, require_empty=False)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        if self.resume:  # before anything is written; the trainer's state at its start: ignite restarts what is done
            rest = self.load(engine.state.device)
            done, wanted = rest["trainer"]["iteration"] // rest["trainer"]["epoch_length"], engine.state.max_epochs
            if wanted is not None and wanted < done:
                raise UserError(f"epochs is {wanted}, but {self.path} has done {done}: give at least as many.")
            engine.add_event_handler(Events.STARTED, self.go_on, rest)

    def check_presence(self) -> None:
        """On all processes together, before one of them refuses anything else."""
        there = self.path.is_file()
        marks = idist.all_gather(sha256(str(self.path) if self.resume and there else ""))
        if len(set(marks)) > 1:
            raise UserError(
                f"{self.path} is not the same for all processes, which would go on from different states: give a "
                "ckpt_dir that all nodes share, or copy the file to each."
            )
        if self.resume and not there:
            raise UserError(
                f"resume is set, but {self.path} does not exist: train first, or give its folder as ckpt_dir."
            )

    def __call__(self, engine: Engine) -> None:
        best = self.evaluator.state
        if best.best_metric_epoch == engine.state.epoch:
            self.save(self.student.state_dict(), "model.pt")
        states = {name: item.state_dict() for name, item in self.objects.items()}
        run = {
            "trainer": dict(engine.state_dict()),
            "best_metric": best.best_metric,
            "best_metric_epoch": best.best_metric_epoch,
            "settings": self.settings,
        }
        self.save(states | run, self.path.name)

    def load(self, device: torch.device) -> dict[str, Any]:
        """Restore the objects; the rest of the checkpoint."""
        checkpoint = torch.load(self.path, map_location=device, weights_only=True)
        for key, value in self.settings.items():
            if key not in checkpoint["settings"]:
                raise UserError(
                    f"{key} is {value!r}, but {self.path} was begun without it: use its config, or train anew."
                )
            if (begun := checkpoint["settings"][key]) != value:
                raise UserError(f"{key} is {value!r}, but {self.path} was begun with {begun!r}: use that to resume.")
        try:
            for name, item in self.objects.items():
                lengths = {key: getattr(item, key) for key in SCHEDULE if hasattr(item, key)}
                item.load_state_dict(checkpoint[name])
                vars(item).update(lengths)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip().rstrip(".")
            raise UserError(
                f"{self.path} is of another configuration: {reason}. Resume with the same config."
            ) from error
        return {name: value for name, value in checkpoint.items() if name not in self.objects}

    def go_on(self, engine: Engine, checkpoint: dict[str, Any]) -> None:
        engine.load_state_dict(checkpoint["trainer"] | {"max_epochs": engine.state.max_epochs})
        self.evaluator.state.best_metric = checkpoint["best_metric"]
        self.evaluator.state.best_metric_epoch = checkpoint["best_metric_epoch"]
        logger.info(f"Resumed {self.path} after epoch {engine.state.epoch}.")
