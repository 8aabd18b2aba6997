"""Runs in MLflow, followed while they train, or sent from their folder at any time, again if need be.

python -m scripts.tracking --run DIR --mlflow_uri URI [--mlflow_experiment NAME] [--run_name NAME]

Everything that is sent lies in the run's folder first, so a server that is down loses nothing: the next epoch, or this
command, sends what is missing. DIR/mlflow.json remembers the run in MLflow and what of it has been sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from scripts.command import run_command
from scripts.errors import UserError
from scripts.mlflow_run import STAGES, MlflowRun

__all__ = ["Tracking", "send_cross_validation", "send_run"]

logger = logging.getLogger(__name__)


class Tracking:
    """An ignite handler that sends a training to MLflow after each epoch; attach it after History and RunCheckpoint.

    Parameters (the merged config, flattened), revision and checksum of the data, all columns of history.csv, system
    metrics, and at the end the folder's files and the student as a model. What fails is warned of, once, and tried
    again with the next epoch; training goes on.

    Args:
        output_dir: the run's folder.
        mlflow_uri: a server or a store, as MLflow takes it.
        mlflow_experiment: name of the experiment.
        run_name: by default the folder's name.

    Raises:
        UserError: if mlflow is not installed.
    """

    def __init__(
        self,
        output_dir: str,
        mlflow_uri: str,
        mlflow_experiment: str = "mtcm_kd",
        run_name: str | None = None,
    ) -> None:
        self.run = MlflowRun(output_dir, mlflow_uri, mlflow_experiment, run_name)
        self.monitor: Any = None
        self.warned = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, engine: Engine) -> None:
        self.attempt(self.run.send)
        if self.monitor is None and "run_id" in self.run.state:
            self.attempt(self.watch_system)

    def watch_system(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.run.state["run_id"], tracking_uri=self.run.uri)
        monitor.start()
        self.monitor = monitor

    def finish(self, engine: Engine) -> None:
        if self.monitor is not None:
            self.attempt(self.monitor.finish)
        self.attempt(self.run.send)
        self.attempt(self.run.finish)

    def attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (Exception, UserError) as error:  # a network fails in many ways, and none may end a training
            if not self.warned:
                logger.warning(
                    f"mlflow_uri {self.run.uri} does not take the run ({type(error).__name__}); training goes on. "
                    "The next epoch tries again; later: "
                    f"python -m scripts.tracking --run {self.run.folder} --mlflow_uri URI"
                )
            self.warned = True


def send_run(
    run: str,
    mlflow_uri: str,
    mlflow_experiment: str = "mtcm_kd",
    run_name: str | None = None,
    parent: str | None = None,
) -> str:
    """Send a run's folder, or what is missing of it; its id in MLflow.

    Args:
        run: the output_dir of a training, an evaluation or an inference.
        mlflow_uri: a server (http://HOST:PORT) or a store (sqlite:///FILE).
        mlflow_experiment: name of the experiment.
        run_name: by default the folder's name.
        parent: id of the run that this one is a part of.

    Raises:
        UserError: if the folder holds no run, or MLflow does not take it.
    """
    if not any(Path(run, f"{stage}.json").is_file() for stage in STAGES):
        raise UserError(
            f"run {run} holds none of {', '.join(f'{stage}.json' for stage in STAGES)}: give an output_dir."
        )
    sender = MlflowRun(run, mlflow_uri, mlflow_experiment, run_name, parent)
    try:
        run_id = sender.send()
        sender.finish()
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"mlflow_uri {mlflow_uri} does not take {run} ({reason}): start it, then run this again."
        ) from error
    logger.info(f"{run} -> run {run_id} of {mlflow_uri}")
    return run_id


def send_cross_validation(output_dir: str, folds: int, **where: Any) -> None:
    """Send a cross-validation as one run, of which each fold's run is a part. ``where`` are send_run's options."""
    parent = send_run(output_dir, **where)
    for fold in range(folds):
        send_run(str(Path(output_dir, f"fold_{fold}")), **where, parent=parent)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    run_command(send_run)
