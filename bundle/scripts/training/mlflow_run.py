"""Send a run's folder to MLflow. Everything is in the folder first, so nothing is lost if sending fails."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.utils import ensure_tuple

from scripts.errors import UserError, reason_of
from scripts.files import read_json, sha256, write_json
from scripts.method.weights import load_weights
from scripts.training.mlflow_charts import layout_link, share_layout
from scripts.training.mlflow_facts import (
    DESCRIPTION,
    dataset_of,
    description,
    epochs_after,
    evaluation_scores,
    parameters,
    resolve,
    source_tags,
    typed_options,
)

logger = logging.getLogger(__name__)

ARTIFACTS = ("*.json", "*.csv", "*.html", "*.png", "models/*.pt")
STAGES = ("training", "evaluation", "inference", "cross_validation")
LONGEST_VALUE = 6000  # characters of a parameter in MLflow
HTTP_OPTIONS = {"MAX_RETRIES": "1", "TIMEOUT": "30"}  # a server that is down must not stop a training for long


class MlflowRun:
    """A run's folder and its run in MLflow. ``mlflow.json`` in the folder remembers what was sent.

    Args:
        folder: folder with training.json, history.csv and other files of the run.
        uri: a server or a store; empty for the one that ``mlflow.json`` remembers.
        experiment: name of the experiment, which is made if it does not exist.
        name: of the run; by default the folder's name.
        parent: id of the run that contains this run.

    Raises:
        UserError: if mlflow is not installed, or uri is neither a server nor a store.
    """

    def __init__(self, folder: str, uri: str, experiment: str, name: str | None, parent: str | None = None) -> None:
        uri = uri or remembered(folder).get("uri", "")
        if not uri:
            raise UserError(
                f"{folder} was never sent to MLflow: give --mlflow_uri, http://HOST:PORT or sqlite:///FILE."
            )
        if importlib.util.find_spec("mlflow") is None:
            raise UserError(f"mlflow_uri is {uri!r}, but mlflow is not installed: pip install mlflow psutil.")
        if not re.match(r"[\w+]+:/|databricks", uri):
            raise UserError(f"mlflow_uri is {uri!r}, expected a server (http://HOST:PORT) or store (sqlite:///FILE).")
        for variable, value in HTTP_OPTIONS.items():
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{variable}", value)
        self.folder = Path(folder).resolve()
        self.uri = absolute_uri(uri)
        self.experiment = experiment
        self.name = name or self.folder.name
        self.parent = parent
        self.path = self.folder / "mlflow.json"

    @cached_property
    def sent(self) -> dict[str, Any]:
        """The run's id in MLflow, the last epoch and the stages that were sent."""
        sent = remembered(str(self.folder))
        if absolute_uri(sent.get("uri", "")) != self.uri:
            return {"uri": self.uri, "epoch": 0, "stages": [], "records": {}}
        paths = {stage: self.folder / f"{stage}.json" for stage in sent["stages"]}  # older files have no checksums
        return {"records": {stage: sha256(path) for stage, path in paths.items() if path.is_file()}} | sent

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def send(self) -> str:
        """The run's id in MLflow, after sending the parameters, epochs and scores that are not there yet."""
        if "run_id" not in self.sent:
            self.remember(run_id=self.create_run(), status="FINISHED")  # unless Tracking says that it runs
        if self.parent:
            self.client.set_tag(self.sent["run_id"], "mlflow.parentRunId", self.parent)
        for stage in STAGES:
            path, records = self.folder / f"{stage}.json", self.sent["records"]
            if path.is_file() and records.get(stage) != sha256(path):
                self.send_settings(stage, read_json(path, "run"))
                stages = [*self.sent["stages"], *([] if stage in self.sent["stages"] else [stage])]
                self.remember(stages=stages, records=records | {stage: sha256(path)})
        for epoch, values in epochs_after(self.folder / "history.csv", self.sent["epoch"]):
            self.send_metrics(values, epoch)
            self.remember(epoch=epoch)
        scores = evaluation_scores(self.folder / "metrics.json")
        self.send_metrics(scores, 0)  # of which MLflow draws bars that compare runs, not lines
        self.describe(scores)
        return self.sent["run_id"]

    def create_run(self) -> str:
        """The id of a new run in MLflow."""
        if self.parent:  # MLflow shows a run within another only in one experiment
            experiment = self.client.get_run(self.parent).info.experiment_id
        elif found := self.client.get_experiment_by_name(self.experiment):
            experiment = found.experiment_id
        else:
            experiment = self.client.create_experiment(self.experiment, self.artifact_location())
        share_layout(self.client, experiment)
        if not self.uri.startswith("databricks"):  # whose pages have other addresses
            logger.info(f"MLflow compares this run with others at {layout_link(self.uri, experiment)}")
        return self.client.create_run(experiment, run_name=self.name).info.run_id

    def artifact_location(self) -> str | None:
        """Folder of artifacts: ``mlruns`` beside a store in a file; None for a server, which has its own."""
        scheme, _, path = self.uri.partition(":///")
        return (Path(path).resolve().parent / "mlruns").as_uri() if scheme == "sqlite" else None

    def remember(self, **changed: Any) -> None:
        """Add to what was sent, in memory and in mlflow.json, to which another process may have added."""
        there = remembered(str(self.folder))
        self.sent |= (there if absolute_uri(there.get("uri", "")) == self.uri else {}) | changed
        write_json(self.path, self.sent)

    def send_settings(self, stage: str, about: Mapping[str, Any]) -> None:
        """Send a stage's tags, data set, parameters and, as a file, its merged config; again where its record changed.

        The first stage gives all parameters. A later stage adds options that were typed, if their names are new.
        """
        from mlflow.entities import Param

        run = self.sent["run_id"]
        known, first = self.client.get_run(run).data.params, stage == next(iter(self.sent["stages"]), stage)
        tags = {f"{stage}.command": about.get("typed") or about.get("command")}
        if first:
            tags |= {"seed": about.get("seed"), "data.sha256": (about.get("data") or {}).get("sha256")}
            tags |= source_tags(about)
        for key, value in tags.items():
            if value is not None:
                self.client.set_tag(run, key, str(value))
        if dataset := dataset_of(stage, about):
            self.client.log_inputs(run, datasets=[dataset])
        if configuration := about.get("configuration"):
            self.client.log_dict(run, configuration, f"{stage}.yaml")
        values = parameters(stage, about) if first else typed_options(about)
        entries = [Param(key, value[:LONGEST_VALUE]) for key, value in values.items() if key not in known]
        self.client.log_batch(run, params=entries)

    def send_metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        if metrics := [Metric(name, value, now, step) for name, value in values.items()]:
            self.client.log_batch(self.sent["run_id"], metrics=metrics)

    def describe(self, scores: Mapping[str, float]) -> None:
        """Write the run's description, unless a person wrote one in MLflow."""
        run = self.client.get_run(self.sent["run_id"]).data
        typed = {stage: run.tags.get(f"{stage}.command", "") for stage in STAGES}
        record = self.folder / "training.json"
        config = read_json(record, "run").get("configuration") if record.is_file() else None
        epochs = resolve(config or {}, "epochs")  # MLflow keeps the parameter of the first start
        text = description(run.params | ({"epochs": str(epochs)} if epochs else {}), typed, scores)
        before = run.tags.get(DESCRIPTION, "")
        if before != text and before in ("", self.sent.get("description", "")):
            self.client.set_tag(self.sent["run_id"], DESCRIPTION, text)
            self.remember(description=text)

    def send_model(self) -> None:
        """Send models/model.pt as a TorchScript model, ``student``, which mlflow.pyfunc loads without this bundle."""
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        weights, settings = self.folder / "models" / "model.pt", self.folder / "training.json"
        configuration = read_json(settings, "run").get("configuration") if settings.is_file() else None
        if not configuration or not weights.is_file() or sha256(weights) == self.sent.get("student"):
            return
        try:
            student = ConfigParser(configuration).get_parsed_content("network_def")
            load_weights(student, str(weights))
            network = torch.jit.script(student.cpu().eval())
        except Exception as error:  # a network of the user's own, whose code is elsewhere, or not for TorchScript
            logger.warning(f"{weights}: MLflow gets no model of the student, only the file ({reason_of(error)}).")
            return
        channels = len(ensure_tuple(configuration["student_sequence"]))
        signature = ModelSignature(
            Schema([TensorSpec(np.dtype("float32"), (-1, channels, -1, -1, -1))]),
            Schema([TensorSpec(np.dtype("float32"), (-1, -1, -1, -1, -1))]),
        )
        mlflow.set_tracking_uri(self.uri)
        with mlflow.start_run(run_id=self.sent["run_id"]):
            mlflow.pytorch.log_model(network, name="student", signature=signature, serialization_format="pickle")
        self.remember(student=sha256(weights))

    def set_status(self, status: str) -> None:
        """Say in MLflow whether the run is RUNNING, FINISHED, KILLED or FAILED, and remember it."""
        self.remember(status=status)
        change = self.client.update_run if status == "RUNNING" else self.client.set_terminated
        change(self.sent["run_id"], status)

    def finish(self, status: str | None = None) -> None:
        """Send the folder's tables, reports, pictures, checkpoints and the student, where they are new, and a status.

        Without one, a training that runs or was killed keeps that of then.
        """
        self.remember(**({"status": status} if status else {}))  # first: the server may be down
        found = self.client.get_run(self.sent["run_id"]).info.status  # older files hold none
        for path in sorted({path for pattern in ARTIFACTS for path in self.folder.glob(pattern)} - {self.path}):
            files, place = self.sent.get("files", {}), path.relative_to(self.folder)
            if files.get(str(place)) != (checksum := sha256(path)):
                self.client.log_artifact(self.sent["run_id"], str(path), str(place.parent).removeprefix(".") or None)
                self.remember(files=files | {str(place): checksum})
        self.send_model()
        self.remember()  # the training may have ended meanwhile
        self.set_status(self.sent.get("status", found))


def remembered(folder: str) -> dict[str, Any]:
    """What mlflow.json in a run's folder says was sent, and where; empty where nothing was."""
    path = Path(folder, "mlflow.json")
    return read_json(path, "run", {"uri": str, "epoch": int, "stages": list}) if path.is_file() else {}


def absolute_uri(uri: str) -> str:
    """A store in a file by its whole path, so that it is found from any folder; other addresses as they are."""
    scheme, _, path = uri.partition(":///")
    return f"sqlite:///{Path(path).resolve()}" if scheme == "sqlite" and path else uri
