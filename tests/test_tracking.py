"""Runs in MLflow: a real server, a store in a file, and servers that are down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import torch

from conftest import METHOD, TINY, TINY_TEACHERS
from scripts.errors import UserError
from scripts.files import flatten, read_table, write_table
from scripts.method.resunet import ResUNet
from scripts.training.mlflow_run import MlflowRun
from scripts.training.tracking import Tracking, send_run

mlflow = pytest.importorskip("mlflow", reason="mlflow is an extra: pip install '.[track]'")
ROW = {"loss/total": 1.5, "weight/t1": 0.05}


@pytest.fixture(scope="module")
def server(tmp_path_factory, free_port):
    """``mlflow server`` on loopback: SQLite, artifacts in a folder."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    line = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/store.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(line, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    else:
        pytest.fail((folder / "log").read_text()[-2000:])
    yield uri
    os.killpg(process.pid, 15)
    process.wait()


def write_history(folder, epochs):
    write_table(folder / "history.csv", [{"epoch": epoch, **ROW} for epoch in range(1, epochs + 1)])


def run_of(folder, uri):
    return mlflow.MlflowClient(uri).get_run(json.loads((folder / "mlflow.json").read_text())["run_id"])


def test_a_folder_is_sent_once_and_then_what_is_new(tmp_path):
    uri, folder = f"sqlite:///{tmp_path}/store.db", tmp_path / "run"
    with pytest.raises(UserError, match=f"run {tmp_path} .*training.json"):
        send_run(str(tmp_path), uri)
    write_history(folder, 2)
    about = {"configuration": {"epochs": 2, "names": ["a", "b"]}, "seed": 3, "revision": "abc", "data": {"sha256": "d"}}
    (folder / "training.json").write_text(json.dumps(about))
    first = send_run(str(folder), uri, run_name="mine")
    write_history(folder, 3)
    assert send_run(str(folder), uri) == first
    client, run = mlflow.MlflowClient(uri), run_of(folder, uri)
    assert run.info.run_name == "mine" and run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "2", "names::0": "a", "names::1": "b"}
    assert {key: run.data.tags[key] for key in ("seed", "data.sha256")} == {"seed": "3", "data.sha256": "d"}
    assert [metric.step for metric in client.get_metric_history(first, "loss/total")] == [1, 2, 3]
    assert {file.path for file in client.list_artifacts(first)} == {"history.csv", "training.json"}


def test_a_server_that_is_down_is_warned_of_once_and_caught_up_with(tmp_path, caplog, free_port):
    """A mock of a fault: there is no server at the address until the third epoch."""
    folder, store = tmp_path / "run", f"sqlite:///{tmp_path}/store.db"
    tracking = Tracking(str(folder), f"http://127.0.0.1:{free_port()}")
    tracking(None)
    for epoch in (1, 2):
        write_history(folder, epoch)
        tracking(None)
    warnings = [message for message in caplog.messages if "mlflow_uri" in message]
    assert len(warnings) == 1 and str(folder) in warnings[0]
    tracking.run.uri = store
    write_history(folder, 3)
    tracking(None)
    run = run_of(folder, store)
    history = mlflow.MlflowClient(store).get_metric_history(run.info.run_id, "weight/t1")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.05), (2, 0.05), (3, 0.05)]


def test_sending_without_a_server_names_the_address(tmp_path, free_port):
    write_history(tmp_path, 1)
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(UserError, match=rf"mlflow_uri http://127\.0\.0\.1:\d+ .*{tmp_path}"):
        send_run(str(tmp_path), f"http://127.0.0.1:{free_port()}")


def test_a_place_that_is_no_uri_is_named_before_a_training(tmp_path):
    with pytest.raises(UserError, match="mlflow_uri is 'localhost:5000'"):
        MlflowRun(str(tmp_path), "localhost:5000", "mtcm_kd", None)


@pytest.mark.slow
def test_a_training_is_all_in_mlflow(server, data_options, tmp_path, command, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")  # s; the training takes about 1
    folder = tmp_path / "followed"
    options = [
        *TINY, *TINY_TEACHERS, *data_options, "--output_dir", folder, "--epochs", "2", "--val_interval", "1",
        "--mlflow_uri", server, "--mlflow_experiment", "brains",
    ]  # fmt: skip
    result = command("monai.bundle", "run", "training", "--config_file", str(METHOD), *options)
    assert result.returncode == 0, result.stderr[-3000:]
    result = command(
        "monai.bundle", "run", "evaluating", "--config_file", str([*METHOD, "configs/evaluate.yaml"]), *options
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert command("scripts", "report", "--run", folder).returncode == 0
    assert command("scripts", "track", "--run", folder, "--mlflow_uri", server).returncode == 0
    client, run = mlflow.MlflowClient(server), run_of(folder, server)
    assert run.info.run_name == "followed" and run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "brains"
    about = json.loads((folder / "training.json").read_text())
    expected = {key: str(value)[:6000] for key, value in flatten(about["configuration"])}
    assert expected.items() <= run.data.params.items() and len(expected) > 200
    assert run.data.tags["data.sha256"] == about["data"]["sha256"]
    assert run.data.tags["mlflow.source.git.commit"] == str(about["revision"])
    rows = read_table(folder / "history.csv")
    assert {"loss/distil_flair", "weight/t2", "dice/t1", "lr/student", "validation/dice/WT"} <= set(rows[0])
    for name in rows[0]:
        history = client.get_metric_history(run.info.run_id, name)
        wanted = [float(row[name]) for row in rows if row[name]]
        assert [metric.value for metric in history] == pytest.approx(wanted), name
    metrics = run.data.metrics
    summary = json.loads((folder / "metrics.json").read_text())["summary"]
    assert metrics["system/cpu_utilization_percentage"] >= 0
    assert metrics["test/WT/dice"] == pytest.approx(summary["WT"]["dice"]["mean"])
    files = {file.path for part in ("", "models") for file in client.list_artifacts(run.info.run_id, part)}
    wanted = {"training.json", "history.csv", "metrics.csv", "report.html", "models/model.pt", "models/checkpoint.pt"}
    assert wanted <= files
    mlflow.set_tracking_uri(server)
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/student")
    image = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 24)).astype(np.float32)
    network = ResUNet(1, 4, [4, 4, 8, 8], deep_supervision=1).eval()
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        np.testing.assert_allclose(model.predict(image), network(torch.from_numpy(image)), atol=1e-5)


@pytest.mark.slow
def test_folds_are_parts_of_one_run(server, data_options, tmp_path, command):
    result = command(
        "scripts", "cross_validate", "--config_file", "configs/train.yaml", "--folds", "3", *data_options, *TINY,
        *TINY_TEACHERS, "--epochs", "1", "--output_dir", tmp_path, "--mlflow_uri", server,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    parent = run_of(tmp_path, server)
    assert "test/WT/dice" in parent.data.metrics
    for fold in range(3):
        assert run_of(tmp_path / f"fold_{fold}", server).data.tags["mlflow.parentRunId"] == parent.info.run_id


@pytest.mark.slow
def test_monais_own_tracking_works(data_options, tmp_path, command, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # set_tracking_uri, above, leaves it
    options = [*TINY, *TINY_TEACHERS, *data_options, "--output_dir", tmp_path, "--epochs", "1"]
    store = f"sqlite:///{tmp_path}/own.db"
    result = command(
        "monai.bundle", "run", "training", "--config_file", str(METHOD), *options, "--tracking", "mlflow",
        "--tracking_uri", store,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("monai_experiment").experiment_id])
    assert "loss/student" in run.data.metrics and "train_loss" in run.data.metrics
