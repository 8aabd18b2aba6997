"""The training that a folder holds already: a new one does not replace it."""

from __future__ import annotations

from pathlib import Path

from scripts.errors import UserError
from scripts.training.checkpoint import checkpoints_in, has_steps


def check_new_run(output_dir: str, ckpt_dir: str, resume: bool | str, dataset_dir: str) -> None:
    """Check before anything is written that a new training replaces no earlier one.

    Args:
        output_dir: folder of the training.
        ckpt_dir: folder of checkpoint.pt and model.pt.
        resume: as for RunCheckpoint.
        dataset_dir: empty in MONAI Label, which trains the weights that it serves again and again.

    Raises:
        UserError: names what is there and the ways out.
    """
    checkpoints = checkpoints_in(ckpt_dir)
    if not dataset_dir or (resume if resume != "auto" else checkpoints):
        return  # "auto" starts again where no step was saved
    others = [
        Path(output_dir, "history.csv"),
        Path(output_dir, "evaluation.json"),  # whose scores MLflow would take for the new run's
        *filter(has_steps, checkpoints),  # others lose nothing
        Path(ckpt_dir, "model.pt"),
    ]  # training.json alone: no epoch
    if there := [path for path in others if path.is_file()]:
        elsewhere = "--output_dir" if there[0].parent == Path(output_dir) else "--output_dir (or --ckpt_dir, if set)"
        way = "continue it with --resume True, or give" if checkpoints else "there is no checkpoint to resume, so give"
        raise UserError(f"{there[0]} belongs to an earlier run and would be replaced: {way} another {elsewhere}.")


def forget_unstarted(output_dir: str, ckpt_dir: str, resume: bool | str, rank: int = 0) -> None:
    """Before a new training, remove what an earlier one without a step left: its checkpoint, and its run in MLflow."""
    checkpoints = checkpoints_in(ckpt_dir)
    if rank == 0 and resume is not True and not any(map(has_steps, checkpoints)):
        for path in [*checkpoints, Path(output_dir, "mlflow.json")]:
            path.unlink(missing_ok=True)
