"""A run's folder and what of it is in MLflow: everything lies in the folder first, so that nothing is lost."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from scripts.distillation import load_weights
from scripts.errors import UserError
from scripts.provenance import sha256
from scripts.records import write_json

__all__ = ["STAGES", "MlflowRun", "flatten"]

ARTIFACTS = ("*.json", "*.csv", "*.html", "*.png", "models/*.pt")
STAGES = ("training", "evaluation", "inference", "cross_validation")
LONGEST_VALUE = 6000  # of a parameter, in MLflow


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
        if not re.match(r"[\w+]+:/|databricks", uri):
            raise UserError(f"mlflow_uri is {uri!r}, expected a server (http://HOST:PORT) or store (sqlite:///FILE).")
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

    @cached_property
    def state(self) -> dict[str, Any]:
        """The run's id and what of it was sent; read late: a training begins by removing an earlier one's."""
        state = json.loads(self.path.read_text()) if self.path.is_file() else {}
        return state if state.get("uri") == self.uri else {"uri": self.uri, "epoch": 0, "stages": []}

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
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        if metrics:
            self.client.log_batch(self.state["run_id"], metrics=metrics)

    def send_model(self) -> None:
        """models/model.pt as a TorchScript model named ``student``: ``mlflow.pyfunc`` loads it without this bundle."""
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        weights, settings = self.folder / "models" / "model.pt", self.folder / "training.json"
        configuration = json.loads(settings.read_text()).get("configuration") if settings.is_file() else None
        if not configuration or not weights.is_file() or sha256(str(weights)) == self.state.get("student"):
            return
        parser = ConfigParser(configuration)
        student = parser.get_parsed_content("network_def")
        load_weights(student, str(weights))
        network = torch.jit.script(student.cpu().eval())
        channels = parser.get_parsed_content("network_def::in_channels")
        signature = ModelSignature(
            Schema([TensorSpec(np.dtype("float32"), (-1, channels, -1, -1, -1))]),
            Schema([TensorSpec(np.dtype("float32"), (-1, -1, -1, -1, -1))]),
        )
        mlflow.set_tracking_uri(self.uri)
        with mlflow.start_run(run_id=self.state["run_id"]):
            mlflow.pytorch.log_model(network, name="student", signature=signature, serialization_format="pickle")
        self.note(student=sha256(str(weights)))

    def finish(self) -> None:
        """Send the folder's tables, reports, pictures, checkpoints and the student, and close the run."""
        for path in sorted({path for pattern in ARTIFACTS for path in self.folder.glob(pattern)} - {self.path}):
            place = path.parent.relative_to(self.folder)
            self.client.log_artifact(self.state["run_id"], str(path), None if place == Path() else str(place))
        self.send_model()
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
