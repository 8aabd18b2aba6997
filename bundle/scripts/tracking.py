"""Runs in MLflow, followed while they train, or sent from their folder at any time, again if need be.

python -m scripts.tracking --run DIR --mlflow_uri URI [--mlflow_experiment NAME] [--run_name NAME]

Everything that is sent lies in the run's folder first, so a server that is down loses nothing: the next epoch, or this
command, sends what is missing. DIR/mlflow.json remembers the run in MLflow and what of it has been sent.
"""

from __future__ import annotations

import copy
import csv
import importlib.util
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from ignite.engine import Engine, Events

from scripts.errors import UserError
from scripts.records import write_json

__all__ = ["Tracking", "send_cross_validation", "send_run"]

logger = logging.getLogger(__name__)

ARTIFACTS = ("*.json", "*.csv", "*.html", "*.png", "models/*.pt")
STAGES = ("training", "evaluation", "inference", "cross_validation")
LONGEST_VALUE = 6000  # of a parameter, in MLflow


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
        student: logged as a TorchScript model, logits (B, C, H, W, D) from images (B, S, H, W, D).
        channels: S.

    Raises:
        UserError: if mlflow is not installed.
    """

    def __init__(
        self,
        output_dir: str,
        mlflow_uri: str,
        mlflow_experiment: str = "mtcm_kd",
        run_name: str | None = None,
        student: torch.nn.Module | None = None,
        channels: int = 1,
    ) -> None:
        self.run = MlflowRun(output_dir, mlflow_uri, mlflow_experiment, run_name)
        self.student = student
        self.channels = channels
        self.monitor: Any = None
        self.warned = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        self.attempt(self.run.send)
        self.attempt(self.watch_system)

    def __call__(self, engine: Engine) -> None:
        self.attempt(self.run.send)

    def finish(self, engine: Engine) -> None:
        if self.monitor is not None:
            self.attempt(self.monitor.finish)
        self.attempt(self.send_the_rest)

    def send_the_rest(self) -> None:
        self.run.send()
        if self.student is not None:
            self.run.send_model(self.student, self.channels)
        self.run.finish()

    def watch_system(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if "run_id" in self.run.state:
            self.monitor = SystemMetricsMonitor(self.run.state["run_id"], tracking_uri=self.run.uri)
            self.monitor.start()

    def attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # a network fails in many ways, and none may end a training
            if not self.warned:
                logger.warning(
                    f"mlflow_uri {self.run.uri} does not take the run ({type(error).__name__}); training goes on. "
                    "The next epoch tries again; later: "
                    f"python -m scripts.tracking --run {self.run.folder} --mlflow_uri URI"
                )
            self.warned = True


class MlflowRun:
    """A run's folder, and what of it is in MLflow.

    Args:
        folder: with training.json, history.csv, and what else there is.
        uri: a server or a store.
        experiment: made if there is none.
        name: of the run.
        parent: id of the run that this one is a part of.

    Raises:
        UserError: if mlflow is not installed.
    """

    def __init__(self, folder: str, uri: str, experiment: str, name: str | None, parent: str | None = None) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise UserError(f"mlflow_uri is {uri!r}, but mlflow is not installed: pip install mlflow, or leave it out.")
        for variable, value in {
            "MAX_RETRIES": "1",
            "TIMEOUT": "30",
        }.items():  # a server that is down must not hold training
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{variable}", value)
        self.folder = Path(folder).resolve()
        self.uri = uri
        self.experiment = experiment
        self.name = name or self.folder.name
        self.parent = parent
        self.path = self.folder / "mlflow.json"
        state = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.state: dict[str, Any] = state if state.get("uri") == uri else {"uri": uri, "epoch": 0, "stages": []}

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def send(self) -> str:
        """Send what is missing of parameters, epochs and scores; the run's id."""
        if "run_id" not in self.state:
            self.note(run_id=self.create())
        if self.parent:
            self.client.set_tag(self.state["run_id"], "mlflow.parentRunId", self.parent)
        for stage in STAGES:
            path = self.folder / f"{stage}.json"
            if path.is_file() and stage not in self.state["stages"]:
                self.send_settings(stage, json.loads(path.read_text()))
                self.note(stages=[*self.state["stages"], stage])
        for epoch, values in epochs_after(self.folder / "history.csv", self.state["epoch"]):
            self.send_metrics(values, epoch)
            self.note(epoch=epoch)
        self.send_metrics(scores(self.folder / "metrics.json"), self.state["epoch"])
        return self.state["run_id"]

    def create(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else self.client.create_experiment(self.experiment, self.artifacts())
        return self.client.create_run(experiment, run_name=self.name).info.run_id

    def artifacts(self) -> str | None:
        """A store in a file keeps artifacts beside it, in ``mlruns``; a server knows its own place."""
        scheme, _, path = self.uri.partition(":///")
        return (Path(path).resolve().parent / "mlruns").as_uri() if scheme == "sqlite" else None

    def note(self, **changed: Any) -> None:
        self.state |= changed
        write_json(self.path, self.state)

    def send_settings(self, stage: str, about: Mapping[str, Any]) -> None:
        """Tags, and the merged config as parameters; a later stage adds only what the earlier ones did not name."""
        from mlflow.entities import Param

        tags = {
            f"{stage}.command": about.get("command"),
            "mlflow.source.git.commit": about.get("revision"),
            "data.sha256": (about.get("data") or {}).get("sha256"),
            "seed": about.get("seed"),
        }
        for key, value in tags.items():
            if value is not None:
                self.client.set_tag(self.state["run_id"], key, str(value))
        configuration = about if stage == "cross_validation" else about.get("configuration") or {}
        known = self.client.get_run(self.state["run_id"]).data.params
        flat = {key: value for key, value in flatten(configuration) if key and key not in known}
        entries = [Param(key, value[:LONGEST_VALUE]) for key, value in flat.items()]
        for start in range(0, len(entries), 100):  # MLflow's limit for a request
            self.client.log_batch(self.state["run_id"], params=entries[start : start + 100])

    def send_metrics(self, values: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        if metrics:
            self.client.log_batch(self.state["run_id"], metrics=metrics)

    def send_model(self, student: torch.nn.Module, channels: int) -> None:
        """The student as a TorchScript model named ``student``, which ``mlflow.pyfunc`` loads without this bundle."""
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        network = torch.jit.script(copy.deepcopy(student).cpu().eval())
        shape = (-1, channels, -1, -1, -1)
        signature = ModelSignature(
            Schema([TensorSpec(np.dtype("float32"), shape)]),
            Schema([TensorSpec(np.dtype("float32"), (-1, -1, -1, -1, -1))]),
        )
        mlflow.set_tracking_uri(self.uri)
        with mlflow.start_run(run_id=self.state["run_id"]):
            mlflow.pytorch.log_model(network, name="student", signature=signature, serialization_format="pickle")

    def finish(self) -> None:
        """Send the folder's tables, reports, pictures and checkpoints, and close the run."""
        for path in sorted({path for pattern in ARTIFACTS for path in self.folder.glob(pattern)} - {self.path}):
            place = path.parent.relative_to(self.folder)
            self.client.log_artifact(self.state["run_id"], str(path), None if place == Path() else str(place))
        self.client.set_terminated(self.state["run_id"])


def flatten(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    """(a::b::0, text) of every leaf of nested mappings and lists, keys as MONAI's."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if not isinstance(value, (Mapping, list)) or not value:
        yield name, str(value)
    for key, item in items:
        yield from flatten(item, f"{name}::{key}" if name else str(key))


def epochs_after(path: Path, epoch: int) -> list[tuple[int, dict[str, float]]]:
    """(epoch, figures by name) of the rows of history.csv after an epoch."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [(int(row["epoch"]), row) for row in rows if row["epoch"] > epoch]


def scores(path: Path) -> dict[str, float]:
    """test/REGION/METRIC, means over patients, of an evaluation."""
    if not path.is_file():
        return {}
    summary = json.loads(path.read_text())["summary"]
    means = {f"test/{region}/{name}": row["mean"] for region, rows in summary.items() for name, row in rows.items()}
    return {name: mean for name, mean in means.items() if mean is not None and math.isfinite(mean)}


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
    fire.Fire(send_run)
