"""The handler that keeps the best student and the whole run on disk, and resumes a run."""

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
from scripts.files import sha256

__all__ = ["RunCheckpoint"]

logger = logging.getLogger(__name__)

SCHEDULE = (
    "t_total",
    "warmup_steps",
)  # of WarmupCosineSchedule, in steps: a resumed run takes them from its own epochs


class RunCheckpoint:
    """Keeps the best student and the whole run after each epoch, and resumes a run.

    ``checkpoint.pt`` (state of ``objects``, trainer, best metric, settings) is replaced after every epoch.
    ``model.pt`` (the student's bare state dict) is replaced when the validation metric rises. Ignite's DiskSaver
    writes to a temporary file and renames it, on rank 0 only. MONAI's CheckpointSaver cannot keep one file under one
    name and forgets the best metric at a restart. Attach it after validation and confidence.

    Args:
        ckpt_dir: folder of both files.
        student: the network that is shipped.
        objects: name -> object with state_dict and load_state_dict (networks, optimizer, scheduler, confidence).
        evaluator: the validation engine with its best metric.
        settings: settings that must not change when a run is resumed, such as seed and fold.
        resume: continue from ``checkpoint.pt``. "auto" continues if there is one, for jobs that are restarted.

    Raises:
        UserError: if there is nothing to resume from, the checkpoint is from another configuration, or it differs
            between the processes.
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
            logger.warning(f"{self.path} is from an earlier run and will be replaced: --resume True would continue it.")
        self.save = DiskSaver(ckpt_dir, require_empty=False)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        if self.resume:  # objects now, before anything is written; the trainer when it starts, which resets it
            rest = self.load(engine.state.device)
            done, wanted = rest["trainer"]["iteration"] // rest["trainer"]["epoch_length"], engine.state.max_epochs
            if wanted is not None and wanted < done:
                raise UserError(f"epochs is {wanted}, but {self.path} has done {done}: give at least as many.")
            engine.add_event_handler(Events.STARTED, self.continue_from, rest)

    def check_presence(self) -> None:
        """Raises UserError on all processes together, before one of them fails for another reason."""
        there = self.path.is_file()
        marks = idist.all_gather(sha256(str(self.path) if self.resume and there else ""))
        if len(set(marks)) > 1:
            raise UserError(
                f"{self.path} is not the same for all processes, which would continue from different states: give a "
                "ckpt_dir that all nodes share, or copy the file to each node."
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
        """The rest of the checkpoint, after restoring the objects."""
        checkpoint = torch.load(self.path, map_location=device, weights_only=True)
        for key, value in self.settings.items():
            if key not in checkpoint["settings"]:
                raise UserError(
                    f"{key} is {value!r}, but {self.path} was trained without it: use its config, or train again."
                )
            if (trained := checkpoint["settings"][key]) != value:
                raise UserError(
                    f"{key} is {value!r}, but {self.path} was trained with {trained!r}: use that to resume."
                )
        try:
            for name, item in self.objects.items():
                lengths = {key: getattr(item, key) for key in SCHEDULE if hasattr(item, key)}
                item.load_state_dict(checkpoint[name])
                vars(item).update(lengths)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip().rstrip(".")
            raise UserError(
                f"{self.path} is from another configuration: {reason}. Resume with the same config."
            ) from error
        return {name: value for name, value in checkpoint.items() if name not in self.objects}

    def continue_from(self, engine: Engine, checkpoint: dict[str, Any]) -> None:
        engine.load_state_dict(checkpoint["trainer"] | {"max_epochs": engine.state.max_epochs})
        self.evaluator.state.best_metric = checkpoint["best_metric"]
        self.evaluator.state.best_metric_epoch = checkpoint["best_metric_epoch"]
        done, wanted = engine.state.epoch, engine.state.max_epochs
        rest = f"epoch {done + 1}/{wanted} is next" if done < wanted else f"all {done} epochs are done"
        logger.info(f"Resumed {self.path}: {rest}.")
