"""Follow a run in MLflow while it trains, or send a run's folder at any time.

Everything is in the run's folder first. If the server is down, the next epoch or this command sends what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import ensure_tuple

from scripts.errors import UserError, reason_of
from scripts.training.mlflow_run import STAGES, MlflowRun, absolute_uri, remembered

logger = logging.getLogger(__name__)


class Tracking:
    """Sends a training to MLflow after each epoch. Attach it after History and RunCheckpoint.

    It sends the parameters that people compare, the merged config as a file, revision and checksum of the data, all
    columns of history.csv, system metrics, and at the end the folder's files and the student as a model. If sending
    fails, it warns once, the training goes on, and the next epoch tries again.

    Args:
        output_dir: the run's folder.
        mlflow_uri: a server or a store, as MLflow takes it.
        mlflow_experiment: name of the experiment.
        run_name: name of the run; by default the folder's name.

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
        self.running = self.stopped = False  # as MLflow knows it
        self.warned = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.stop)  # StopOnSignal raises it again

    def __call__(self, engine: Engine) -> None:
        self.attempt(self.run.send)
        if not self.running and "run_id" in self.run.sent:
            self.attempt(self.start)

    def start(self) -> None:
        """Say in MLflow that the training runs, again if it is resumed; start MLflow's own monitor of the machine."""
        self.run.set_status("RUNNING")
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
        except ImportError:
            logger.info("MLflow gets no use of processor and memory: pip install psutil.")
        else:
            monitor = SystemMetricsMonitor(self.run.sent["run_id"], resume_logging=True, tracking_uri=self.run.uri)
            monitor.start()
            self.monitor = monitor
        self.running = True

    def finish(self, engine: Engine) -> None:
        if self.monitor is not None:
            self.attempt(self.monitor.finish)
        self.attempt(self.run.send)
        self.attempt(lambda: self.run.finish("FINISHED"))

    def stop(self, engine: Engine, error: BaseException) -> None:
        """Say in MLflow, once, that the training does not run any more."""
        status = "KILLED" if isinstance(error, (SystemExit, KeyboardInterrupt)) else "FAILED"
        if self.monitor is not None:
            self.attempt(self.monitor.finish)
        if not self.stopped and "run_id" in self.run.sent:
            self.attempt(lambda: self.run.set_status(status))
        self.monitor, self.stopped = None, True

    def attempt(self, action: Callable[[], object]) -> None:
        """Do something, or warn of its failure."""
        try:
            action()
        except Exception as error:  # a network fails in many ways, and no failure may end a training
            if not self.warned:
                logger.warning(
                    f"mlflow_uri {self.run.uri} does not take the run ({type(error).__name__}); training goes on. "
                    "The next epoch tries again; later: "
                    f"python -m scripts track --run {self.run.folder} --mlflow_uri URI"
                )
            self.warned = True


def send_run(
    run: str,
    mlflow_uri: str = "",
    mlflow_experiment: str = "mtcm_kd",
    run_name: str | None = None,
    parent: str | None = None,
) -> str:
    """Send a run to MLflow: settings, epochs, scores, files and the student.

    What MLflow has already is not sent again. The run's id in MLflow is printed.

    Args:
        run: the output_dir of a training, an evaluation or an inference.
        mlflow_uri: a server (http://HOST:PORT) or a store (sqlite:///FILE); by default where the run was sent before.
        mlflow_experiment: name of the experiment.
        run_name: name of the run; by default the folder's name.
        parent: id of the run that contains this run.

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
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"mlflow_uri {sender.uri} does not take {run} ({reason_of(error)}): start it, then send the run by "
            f"python -m scripts track --run {run} --mlflow_uri {sender.uri}"
        ) from error
    logger.info(f"{run} -> run {run_id} of {sender.uri}")
    return run_id


def send_evaluation(
    output_dir: str, ckpt_path: str | Sequence[str], mlflow_uri: str | None = None, **where: Any
) -> None:
    """Send an evaluation to the run of its training, or where its folder differs, to a run within that one.

    Without an address, it goes where the training was sent; nothing is sent where that was not. If sending then fails,
    a warning says so, because nobody asked for it.

    Args:
        output_dir: folder of the evaluation.
        ckpt_path: the weights that were scored.
        mlflow_uri: a server or a store.
        where: send_run's other options.
    """
    trainings = {str(Path(path).resolve().parent.parent) for path in ensure_tuple(ckpt_path)}
    sent = [remembered(folder) for folder in (output_dir, *sorted(trainings))]
    uri = mlflow_uri or next((run["uri"] for run in sent if run), None)
    if uri is None:
        return
    elsewhere = len(trainings) == 1 and not sent[0] and sent[1].get("uri") == absolute_uri(uri)
    try:
        send_run(output_dir, uri, **where, parent=sent[1].get("run_id") if elsewhere else None)
    except UserError as error:
        if mlflow_uri:
            raise
        logger.warning(str(error))


def send_cross_validation(output_dir: str, folds: int, **where: Any) -> None:
    """Send a cross-validation as one run that contains each fold's run. ``where`` are send_run's options."""
    parent = send_run(output_dir, **where)
    for fold in range(folds):
        send_run(str(Path(output_dir, f"fold_{fold}")), **where, parent=parent)
