"""The handler that keeps the best student and the whole run on disk, and resumes a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from scripts.documents import check_form
from scripts.errors import UserError, reason_of
from scripts.files import flatten, replacing, sha256
from scripts.settings.provenance import without_modules
from scripts.training.fixed_settings import compared_keys
from scripts.training.stopping import StopEvents

logger = logging.getLogger(__name__)

LENGTHS = (  # of schedules; a resumed run takes them from its own config, and the rest from the checkpoint
    "t_total", "warmup_steps", "T_max", "total_iters", "total_steps", "step_size", "milestones",
)  # fmt: skip
NAMES = ("checkpoint.pt", "checkpoint_before.pt")
FORM = {
    "trainer": {"iteration": int, "epoch_length": int},
    "best_metric": (int, float),
    "best_metric_epoch": int,
    "settings": dict,
}


class RunCheckpoint:
    """Keeps the best student and the whole run after each epoch, and resumes a run.

    ``checkpoint.pt`` (state of ``objects``, trainer, best metric, settings) is written at the start, after every
    epoch, and where a signal stops the run in the middle of one; the one before it stays as ``checkpoint_before.pt``,
    from which a run resumes if the last is damaged.
    ``model.pt`` (the student's bare state dict) is replaced when the validation metric rises. Rank 0 writes. MONAI's
    CheckpointSaver cannot keep one file under one name and forgets the best metric at a restart. Attach it after
    validation and confidence.

    Args:
        ckpt_dir: folder of both files.
        student: the network that is shipped.
        objects: name -> object with state_dict and load_state_dict (networks, optimizer, scheduler, confidence).
        evaluator: the validation engine with its best metric.
        settings: settings that must not change when a run is resumed, such as seed and fold.
        resume: continue from ``checkpoint.pt``. "auto" does so if it holds a step, for jobs that are restarted.

    Raises:
        UserError: if there is nothing to resume from, the checkpoint is from another configuration, or it differs
            between the processes; if the disk is full.
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
        self.folder = Path(ckpt_dir)
        self.student = student
        self.objects = {name: item for name, item in objects.items() if item is not None}
        self.evaluator = evaluator
        self.settings = dict(settings)
        self.resumed_from, self.rest = self.find(needed=resume != "auto") if resume else (None, {})
        self.last_is_good = self.resumed_from != self.folder / NAMES[1]  # else it must not become the one before

    def attach(self, engine: Engine) -> None:
        engine.register_events(*StopEvents)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(StopEvents.STOPPED, self.save_in_epoch)
        if self.resumed_from is None:
            engine.add_event_handler(Events.STARTED, self)
        else:  # objects now, before anything is written; the trainer when it starts, which resets it
            self.restore()
            trainer = self.rest["trainer"]
            done, wanted = trainer["iteration"] // trainer["epoch_length"], engine.state.max_epochs
            if wanted is not None and wanted < done:
                raise UserError(f"epochs is {wanted}, but {self.resumed_from} has done {done}: give at least as many.")
            engine.add_event_handler(Events.STARTED, self.continue_from)
            engine.add_event_handler(Events.GET_BATCH_STARTED, self.continue_in_epoch)

    def find(self, needed: bool) -> tuple[Path | None, dict[str, Any]]:
        """The newest checkpoint that can be read, and its content; (None, {}) if there is none, or none with a step.

        All processes take the same, or fail together.

        Args:
            needed: whether it is an error that there is none; then one without a step will do.
        """
        found: tuple[Path | None, dict[str, Any]] = (None, {})
        faults = []
        for path in checkpoints_in(str(self.folder)):
            try:
                found = path, torch.load(path, map_location="cpu", weights_only=True)
                break
            except Exception:  # unpickling fails in many ways
                faults.append(f"{path} is damaged")
        source = found[0]
        marks = idist.all_gather(sha256(source) if source else "")
        if len(set(marks)) > 1:
            raise UserError(
                f"{self.folder / NAMES[0]} is not the same for all processes, which would continue from different "
                "states: give a ckpt_dir that all nodes share, or copy the file to each node."
            )
        if source is None and not (needed or faults):
            return found
        if source is None:
            there = ", ".join(faults) or f"{self.folder / NAMES[0]} does not exist"
            raise UserError(f"resume is set, but {there}: start without --resume, or give a run's --output_dir.")
        check_form(found[1], FORM, f"resume: {source}")
        if not (needed or found[1]["trainer"]["iteration"]):
            return None, {}
        if faults:
            logger.warning(f"{faults[0]}: the run goes on from {source}, an epoch earlier.")
        return found

    def __call__(self, engine: Engine, **more: Any) -> None:
        """Write checkpoint.pt, with ``more`` in it, and model.pt if this epoch's student is the best."""
        if idist.get_rank() > 0:
            return
        best = self.evaluator.state
        if best.best_metric_epoch == engine.state.epoch:
            save(self.student.state_dict(), self.folder / "model.pt")
        states = {name: item.state_dict() for name, item in self.objects.items()}
        run = {
            "trainer": dict(engine.state_dict()),
            "best_metric": best.best_metric,
            "best_metric_epoch": best.best_metric_epoch,
            "settings": self.settings,
        }
        path, before = (self.folder / name for name in NAMES)
        save(states | run | more, path, before if self.last_is_good else None)
        self.last_is_good = True

    def save_in_epoch(self, engine: Engine) -> None:
        """Save with what the rest of the epoch needs besides: the networks' random state, and sums for history.csv."""
        state, cuda = engine.state, engine.state.device.type == "cuda"
        in_epoch = {
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(state.device) if cuda else None,
            "term_sums": getattr(state, "term_sums", {}),
            "term_steps": getattr(state, "term_steps", {}),
            "skipped_steps": state.metrics.get("skipped_steps", 0),
        }
        self(engine, in_epoch=in_epoch)

    def continue_in_epoch(self, engine: Engine) -> None:
        """Repeat the batches of the finished steps, so that order and augmentation draw the same random numbers."""
        if (saved := self.rest.pop("in_epoch", None)) is None:
            return
        for _ in range(engine.state.iteration % engine.state.epoch_length):
            batch = next(engine._dataloader_iter)  # ignite has no other way to it
            engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        torch.set_rng_state(saved["random"])
        if saved["random_cuda"] is not None and engine.state.device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_cuda"], engine.state.device)
        sums = {name: torch.as_tensor(value).to(engine.state.device) for name, value in saved["term_sums"].items()}
        engine.state.term_sums, engine.state.term_steps = sums, saved["term_steps"]
        engine.state.metrics["skipped_steps"] = saved["skipped_steps"]

    def restore(self) -> None:
        """Restore the objects; ``rest`` keeps what else the checkpoint holds."""
        checkpoint, self.rest = self.rest, {key: self.rest[key] for key in [*FORM, "in_epoch"] if key in self.rest}
        for key in compared_keys(self.settings, checkpoint["settings"]):
            now, then = (str(part.get(key, "not set")) for part in (self.settings, checkpoint["settings"]))
            if without_modules(now) != without_modules(then):
                way = "set it to that" if key in checkpoint["settings"] else "train again without --resume"
                raise UserError(
                    f"{key} is {now}, but {self.resumed_from} was trained with {then}: {way}. If you did not change "
                    "it, use the program's version of then."
                )
        if "loss" in self.objects and "loss" not in checkpoint:  # it is of a version that did not keep the loss
            checkpoint["loss"] = self.objects["loss"].state_dict()
            if lost := self.state_of_loss():
                logger.warning(f"{self.resumed_from} does not hold {', '.join(lost)} of the loss: it begins again.")
        try:
            for name, item in self.objects.items():
                lengths = {key: getattr(item, key) for key in LENGTHS if hasattr(item, key)}
                item.load_state_dict(checkpoint[name])
                vars(item).update(lengths)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.resumed_from} is from another configuration: {reason_of(error, -1)}. Resume with the same "
                "config."
            ) from error

    def state_of_loss(self) -> list[str]:
        """Names in the loss's state that no other object has; the confidence, say, is part of both."""
        others = [item.state_dict() for name, item in self.objects.items() if name != "loss"]
        held = {value.data_ptr() for state in others for value in state.values() if torch.is_tensor(value)}
        own = self.objects["loss"].state_dict()
        return [name for name, value in own.items() if not torch.is_tensor(value) or value.data_ptr() not in held]

    def continue_from(self, engine: Engine) -> None:
        engine.load_state_dict(self.rest["trainer"] | {"max_epochs": engine.state.max_epochs})
        if (self.folder / "model.pt").is_file():  # else the next student is the best that there is
            self.evaluator.state.best_metric = self.rest["best_metric"]
            self.evaluator.state.best_metric_epoch = self.rest["best_metric_epoch"]
        done, wanted = engine.state.epoch, engine.state.max_epochs
        rest = f"epoch {done + 1}/{wanted} is next" if done < wanted else f"all {done} epochs are done"
        if step := engine.state.iteration % engine.state.epoch_length:
            rest = f"epoch {done + 1}/{wanted} goes on after step {step} of {engine.state.epoch_length}"
        logger.info(f"Resumed {self.resumed_from}: {rest}.")


def checkpoints_in(ckpt_dir: str) -> list[Path]:
    """The checkpoints of a run in its folder, the newest first."""
    return [path for name in NAMES if (path := Path(ckpt_dir, name)).is_file()]


def has_steps(path: Path) -> bool:
    """Whether a checkpoint is of a run that has made a step; True also for one that cannot be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["trainer"]["iteration"] > 0
    except Exception:  # unpickling fails in many ways
        return True


def save(states: Mapping[str, Any], path: Path, before: Path | None = None) -> None:
    """Write a file of weights; what ``path`` held until then becomes ``before``."""
    needed = sum(value.numel() * value.element_size() for _, value in flatten(states) if torch.is_tensor(value))
    with replacing(path, needed) as partial:
        with open(partial, "wb") as file:
            torch.save(states, file)
        if before and path.is_file():
            os.replace(path, before)
