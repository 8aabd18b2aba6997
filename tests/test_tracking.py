"""Runs in MLflow: a real server, a store in a file, and servers that are down."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Engine, Events

from conftest import BUNDLE, METHOD, TINY, TINY_TEACHERS
from scripts.errors import UserError
from scripts.files import read_table, write_table
from scripts.method.resunet import ResUNet
from scripts.training.mlflow_facts import parameters
from scripts.training.mlflow_run import MlflowRun
from scripts.training.tracking import Tracking, send_cross_validation, send_evaluation, send_run
from scripts.workflow import command_as_typed, run_line
from servers import mlflow_server

mlflow = pytest.importorskip("mlflow", reason="mlflow is an extra: pip install '.[track]'")
DIGEST = "d3" * 32
ABOUT = {  # a training's record
    "command": "python -m monai.bundle run training --config_file \"['configs/train.yaml', 'configs/two_levels.yaml', "
    "'../mine.yaml', 'configs/multi_gpu_train.yaml']\" --output_dir run --epochs 2 --clip_gradient 1",
    "typed": "python -m scripts train --method two_levels,../mine.yaml --epochs 2 --clip_gradient 1",
    "revision": "abc+",
    "seed": 3,
    "data": {"datalist": "/lists/datalist.json", "sha256": DIGEST},
    "cases": [{}, {}],
    "validation_patients": 1,
    "teachers": ["flair", "two"],
    "amp": True,
    "machine": {"gpus": ["H"], "processes": 2},
    "configuration": {
        "dataset_dir": "/patients/brats", "network_def": {"_target_": "scripts.method.resunet.ResUNet"},
        "student_sequence": "t1ce", "student_widths": [8, 16], "epochs": 2, "batch_size": 2, "learning_rate": "@rate",
        "rate": 0.01, "roi_size": "@window_size", "window_size": [16, 16, 16], "spacing": None, "fold": "$None",
        "seed": 3, "soft_target": {"temperature": 2.0}, "confidence": None,
        "teachers": {
            "flair": {"sequences": ["flair"], "network": {"widths": [4, 8]}},
            "two": {"sequences": ["t1", "t2"], "network": "%teachers::flair::network"},
            "left_out": {"sequences": ["adc"]},
        },
        "loss": {"terms": {"student": {"weight": 0.75}, "distil": {"_target_": "x"}, "off": None}},
    },
}  # fmt: skip
ROW = {"loss/total": 1.5, "weight/t1": 0.05}


@pytest.fixture(scope="module")
def server(tmp_path_factory, free_port):
    """The address of a running MLflow server."""
    own = mlflow_server(tmp_path_factory.mktemp("server"), free_port())
    yield own.start().uri
    own.end()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store in a file, which takes MLflow seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db"


def write_history(folder, epochs):
    write_table(folder / "history.csv", [{"epoch": epoch, **ROW} for epoch in range(1, epochs + 1)])


def run_of(folder, uri):
    return mlflow.MlflowClient(uri).get_run(json.loads((folder / "mlflow.json").read_text())["run_id"])


def test_a_folder_is_sent_once_and_then_what_is_new(store, tmp_path):
    uri, folder = store, tmp_path / "run"
    with pytest.raises(UserError, match=f"run {tmp_path} .*training.json"):
        send_run(str(tmp_path), uri)
    write_history(folder, 2)
    (folder / "training.json").write_text(json.dumps(ABOUT))
    first = send_run(str(folder), uri, run_name="mine")
    write_history(folder, 3)
    assert send_run(str(folder), uri) == first
    client, run = mlflow.MlflowClient(uri), run_of(folder, uri)
    assert run.info.run_name == "mine" and run.info.status == "FINISHED"
    assert {key: run.data.tags[key] for key in ("seed", "data.sha256")} == {"seed": "3", "data.sha256": DIGEST}
    assert [metric.step for metric in client.get_metric_history(first, "loss/total")] == [1, 2, 3]
    assert {file.path for file in client.list_artifacts(first)} == {"history.csv", "training.json", "training.yaml"}


def test_mlflow_shows_what_people_compare(store, tmp_path):
    """Each of MLflow's own fields, of a record whose config is written out here."""
    uri, folder = store, tmp_path / "run"
    write_history(folder, 1)
    (folder / "training.json").write_text(json.dumps(ABOUT))
    run_id = send_run(str(folder), uri)
    run = run_of(folder, uri)
    assert run.data.params == {
        "method": "two_levels,mine", "student": "ResUNet", "student_sequence": "t1ce", "student_widths": "[8, 16]",
        "teachers": "flair, t1+t2", "teacher_widths": "[4, 8]", "loss_weights": "student 0.75, distil 1",
        "fold": "none", "temperature": "2.0", "confidence": "none", "epochs": "2", "batch_size": "2",
        "learning_rate": "0.01", "roi_size": "[16, 16, 16]", "spacing": "none", "seed": "3", "training_patients": "2",
        "validation_patients": "1", "amp": "True", "device": "2 × H", "clip_gradient": "1",
    }  # fmt: skip
    older = {key: value for key, value in ABOUT.items() if key != "teachers"}
    assert parameters("training", older)["teachers"] == "flair, t1+t2, adc"
    assert parameters("training", ABOUT | {"device": "cpu"})["device"] == "2 × cpu"  # with a GPU in the machine
    tags = run.data.tags
    assert tags["training.command"] == ABOUT["typed"] and tags["mlflow.source.name"] == "python -m scripts train"
    assert tags["mlflow.source.git.commit"] == "abc" and tags["mlflow.source.git.dirty"] == "true"
    assert tags["mlflow.source.type"] == "LOCAL" and tags["mlflow.user"]
    assert "taught by flair, t1+t2" in tags["mlflow.note.content"] and ABOUT["typed"] in tags["mlflow.note.content"]
    ((dataset, context),) = [(item.dataset, item.tags[0].value) for item in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest, context) == ("brats", DIGEST[:8], "training")
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/training.yaml")
    assert yaml.safe_load(text) == ABOUT["configuration"]
    tag = mlflow.MlflowClient(uri).get_experiment(run.info.experiment_id).tags["mlflow.sharedViewState.mtcm_kd"]
    assert len(tag) < 5000 and json.loads(tag)["compareRunCharts"][1]["metricKey"] == "test/dice/WT"
    mlflow.MlflowClient(uri).set_tag(run_id, "mlflow.note.content", "mine")
    (folder / "metrics.json").write_text(json.dumps({"summary": {"WT": {"dice": {"mean": 0.5}}}}))
    send_run(str(folder))  # the address is remembered
    run = run_of(folder, uri)
    assert run.data.metrics["test/dice/WT"] == 0.5 and run.data.tags["mlflow.note.content"] == "mine"


def test_what_is_done_again_replaces_what_mlflow_holds(store, tmp_path):
    """A resumed training, and an evaluation with other settings; the seed stays the training's."""
    folder, typed = tmp_path / "run", "python -m scripts evaluate"
    write_history(folder, 1)
    (folder / "training.json").write_text(json.dumps(ABOUT))
    (folder / "evaluation.json").write_text(json.dumps(ABOUT | {"typed": typed, "seed": 0}))
    send_run(str(folder), store)
    longer = ABOUT | {"typed": "resumed", "configuration": ABOUT["configuration"] | {"epochs": 4}}
    (folder / "training.json").write_text(json.dumps(longer))
    (folder / "evaluation.json").write_text(json.dumps(ABOUT | {"typed": f"{typed} --mirror False", "seed": 0}))
    send_run(str(folder))
    run = run_of(folder, store)
    tags = run.data.tags
    assert tags["seed"] == "3" and len(run.inputs.dataset_inputs) == 1
    assert tags["training.command"] == "resumed" and tags["evaluation.command"] == f"{typed} --mirror False"
    assert "4 epochs" in tags["mlflow.note.content"] and run.data.params["epochs"] == "2"
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/training.yaml")
    assert yaml.safe_load(text)["epochs"] == 4


def test_what_was_sent_before_records_had_checksums_is_not_sent_again(store, tmp_path):
    write_history(tmp_path, 1)
    (tmp_path / "training.json").write_text(json.dumps(ABOUT))
    send_run(str(tmp_path), store)
    sent = json.loads((tmp_path / "mlflow.json").read_text())
    del sent["records"]
    (tmp_path / "mlflow.json").write_text(json.dumps(sent))
    mlflow.MlflowClient(store).set_tag(sent["run_id"], "mlflow.user", "who trained")
    send_run(str(tmp_path))
    assert run_of(tmp_path, store).data.tags["mlflow.user"] == "who trained"


def test_a_training_that_was_stopped_does_not_run_in_mlflow(store, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")  # s

    def end(engine):
        raise SystemExit(130)

    def run_out_of_memory(engine):
        raise MemoryError

    def fail(engine, error):  # as StopOnSignal does
        raise error

    def train(status, *handlers):
        engine = Engine(lambda engine, batch: None)
        Tracking(str(tmp_path), store).attach(engine)
        engine.add_event_handler(Events.EXCEPTION_RAISED, fail)
        for handler in handlers:
            engine.add_event_handler(Events.EPOCH_COMPLETED, handler)
        with pytest.raises((SystemExit, MemoryError)) if handlers else nullcontext():
            engine.run([0], max_epochs=1)
        for _ in range(2):  # sending the run again, as evaluate does, tells nothing new of its training
            assert run_of(tmp_path, store).info.status == status
            send_run(str(tmp_path))

    def sent_meanwhile():
        send_run(str(tmp_path))
        assert run_of(tmp_path, store).info.status == "RUNNING"

    (tmp_path / "training.json").write_text(json.dumps(ABOUT))
    train("KILLED", lambda: write_history(tmp_path, 1), sent_meanwhile, end)
    train("FAILED", run_out_of_memory)
    monkeypatch.setitem(sys.modules, "mlflow.system_metrics.system_metrics_monitor", None)  # as without psutil
    train("KILLED", end)
    assert "no use of processor and memory" in caplog.text and "does not take the run" not in caplog.text
    train("FINISHED")
    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", lambda *_: pytest.fail("sent again"))
    send_run(str(tmp_path))


def test_a_run_that_is_sent_while_its_training_ends_is_not_said_to_run_again(store, tmp_path):
    (tmp_path / "training.json").write_text(json.dumps(ABOUT))
    tracking = Tracking(str(tmp_path), store)
    tracking(None)
    meanwhile = MlflowRun(str(tmp_path), store, "mtcm_kd", None)
    meanwhile.send()
    tracking.finish(None)
    meanwhile.finish()
    assert run_of(tmp_path, store).info.status == "FINISHED"


def test_a_run_that_an_older_version_sent_keeps_its_status(store, tmp_path):
    (tmp_path / "training.json").write_text(json.dumps(ABOUT))
    run_id = send_run(str(tmp_path), store)
    sent = json.loads((tmp_path / "mlflow.json").read_text())
    (tmp_path / "mlflow.json").write_text(json.dumps({key: sent[key] for key in sent if key != "status"}))
    mlflow.MlflowClient(store).set_terminated(run_id, "KILLED")
    send_run(str(tmp_path))
    assert run_of(tmp_path, store).info.status == "KILLED"


def test_a_training_whose_start_mlflow_did_not_hear_of_does_not_run_after_its_end(store, tmp_path, monkeypatch):
    (tmp_path / "training.json").write_text(json.dumps(ABOUT))
    tracking = Tracking(str(tmp_path), store)
    with monkeypatch.context() as fault:  # a mock: the server is down for a moment
        fault.delattr(mlflow.MlflowClient, "update_run")
        tracking(None)
    tracking.stop(None, KeyboardInterrupt())
    assert run_of(tmp_path, store).info.status == "KILLED"


def test_system_metrics_of_a_resumed_training_follow_the_earlier_ones(store, tmp_path):
    (tmp_path / "training.json").write_text(json.dumps(ABOUT))
    run_id = send_run(str(tmp_path), store)
    mlflow.MlflowClient(store).log_metric(run_id, "system/cpu_utilization_percentage", 5.0, step=7)
    tracking = Tracking(str(tmp_path), store)
    tracking(None)
    tracking.monitor.finish()
    assert tracking.monitor._logging_step == 8


def test_a_student_that_is_no_torchscript_leaves_its_run_finished(store, tmp_path, caplog):
    write_history(tmp_path, 1)
    (tmp_path / "models").mkdir()
    torch.save({}, tmp_path / "models" / "model.pt")
    own = ABOUT["configuration"] | {"network_def": {"_target_": "code_that_is_elsewhere.Network"}}
    (tmp_path / "training.json").write_text(json.dumps(ABOUT | {"configuration": own}))
    send_run(str(tmp_path), store)
    assert run_of(tmp_path, store).info.status == "FINISHED"
    assert any("MLflow gets no model of the student, only the file" in message for message in caplog.messages)


def test_an_evaluation_goes_to_the_run_of_its_training(store, tmp_path, caplog, free_port, monkeypatch):
    uri, training, other, again = store, tmp_path / "run", tmp_path / "other", tmp_path / "again"
    weights = str(training / "models" / "model.pt")
    for folder in (training, other, again):
        folder.mkdir()
    (training / "training.json").write_text(json.dumps(ABOUT))
    for folder in (training, other, again):
        (folder / "evaluation.json").write_text(json.dumps(ABOUT | {"typed": "python -m scripts evaluate"}))
        (folder / "metrics.json").write_text(json.dumps({"summary": {"WT": {"dice": {"mean": 0.25}}}}))
    send_evaluation(str(training), weights)
    assert not (training / "mlflow.json").exists()  # the training was not sent
    with caplog.at_level("INFO"):
        run_id = send_run(str(training), uri, mlflow_experiment="brains")
    assert f"compareRunsMode=CHART after: mlflow ui --backend-store-uri {uri}" in caplog.text
    send_evaluation(str(training), weights)
    run = run_of(training, uri)
    assert run.info.run_id == run_id and run.data.tags["evaluation.command"] == "python -m scripts evaluate"
    assert run.data.metrics["test/dice/WT"] == 0.25 and "WT: Dice 0.250" in run.data.tags["mlflow.note.content"]
    send_evaluation(str(other), weights)
    within = run_of(other, uri)
    assert within.info.experiment_id == run.info.experiment_id  # else MLflow does not show it within
    assert within.info.run_id != run_id and within.data.tags["mlflow.parentRunId"] == run_id
    monkeypatch.chdir(Path(store.partition(":///")[2]).parent)
    send_evaluation(str(again), weights, "sqlite:///store.db")
    assert run_of(again, uri).data.tags["mlflow.parentRunId"] == run_id
    down = f"http://127.0.0.1:{free_port()}"
    (training / "mlflow.json").write_text(json.dumps({"uri": down, "epoch": 0, "stages": []}))
    send_evaluation(str(training), weights)
    assert f"mlflow_uri {down} does not take {training}" in caplog.messages[-1]


def test_the_command_as_typed_reaches_the_process_that_works(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["/a/scripts/__main__.py", "train", "--fold", "$None", "--widths", "['a']"])
    code = "from scripts.workflow import command_as_typed as typed; print(typed())"
    monkeypatch.chdir(BUNDLE)
    assert run_line([sys.executable, "-c", code]) == 0
    assert capfd.readouterr().out.endswith("python -m scripts train --fold '$None' --widths \"['a']\"\n")
    monkeypatch.setattr(sys, "argv", ["/a/monai/bundle/__main__.py", "run", "training"])
    assert command_as_typed() == "python -m monai.bundle run training"
    monkeypatch.setattr(sys, "argv", ["/a/monailabel/main.py"])
    assert command_as_typed() is None


def test_a_server_that_is_down_is_warned_of_once_and_caught_up_with(store, tmp_path, caplog, free_port):
    """A mock of a fault: there is no server at the address until the third epoch."""
    folder = tmp_path / "run"
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
    unsent = options[: options.index("--mlflow_uri")]  # the evaluation knows the training's address
    result = command(
        "monai.bundle", "run", "evaluating", "--config_file", str([*METHOD, "configs/evaluate.yaml"]), *unsent
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert command("scripts", "report", "--run", folder).returncode == 0
    assert command("scripts", "track", "--run", folder).returncode == 0
    client, run = mlflow.MlflowClient(server), run_of(folder, server)
    assert run.info.run_name == "followed" and run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "brains"
    about = json.loads((folder / "training.json").read_text())
    params = run.data.params
    assert params["method"] == "mtcm_kd" and params["teachers"] == "flair, t2, t1" and len(params) < 32
    assert params["training_patients"] == "4" and params["validation_patients"] == "2" and params["amp"] == "False"
    assert run.data.tags["data.sha256"] == about["data"]["sha256"]
    assert run.data.tags.get("mlflow.source.git.commit", "None") == str(about["revision"]).rstrip("+")
    rows = read_table(folder / "history.csv")
    assert {"loss/distil_flair", "weight/t2", "dice/t1", "lr/student", "validation/dice/WT"} <= set(rows[0])
    for name in rows[0]:
        history = client.get_metric_history(run.info.run_id, name)
        wanted = [float(row[name]) for row in rows if row[name]]
        assert [metric.value for metric in history] == pytest.approx(wanted), name
    metrics = run.data.metrics
    summary = json.loads((folder / "metrics.json").read_text())["summary"]
    assert metrics["system/cpu_utilization_percentage"] >= 0
    assert metrics["test/dice/WT"] == pytest.approx(summary["WT"]["dice"]["mean"])
    files = {file.path for part in ("", "models") for file in client.list_artifacts(run.info.run_id, part)}
    wanted = {"training.json", "history.csv", "metrics.csv", "report.html", "models/model.pt", "models/checkpoint.pt"}
    assert wanted <= files
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)  # which the next line would leave
    mlflow.set_tracking_uri(server)
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/student")
    image = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 24)).astype(np.float32)
    network = ResUNet(1, 4, [4, 4, 8, 8], deep_supervision=1).eval()
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        np.testing.assert_allclose(model.predict(image), network(torch.from_numpy(image)), atol=1e-5)


def test_folds_are_parts_of_one_run(store, tmp_path):
    for folder in (tmp_path / "cv", tmp_path / "cv" / "fold_0", tmp_path / "cv" / "fold_1"):
        folder.mkdir()
        (folder / "evaluation.json").write_text(json.dumps(ABOUT))
        (folder / "metrics.json").write_text(json.dumps({"summary": {"WT": {"dice": {"mean": 0.5}}}}))
    send_cross_validation(str(tmp_path / "cv"), 2, mlflow_uri=store)
    parent = run_of(tmp_path / "cv", store)
    assert parent.data.metrics["test/dice/WT"] == 0.5
    for fold in range(2):
        assert run_of(tmp_path / "cv" / f"fold_{fold}", store).data.tags["mlflow.parentRunId"] == parent.info.run_id


@pytest.mark.slow
def test_monais_own_tracking_works(data_options, tmp_path, command, monkeypatch):
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
