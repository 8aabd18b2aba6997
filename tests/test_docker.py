"""The Dockerfile's steps in folders of their own with fresh environments, and what compose.yaml says of them.

Docker itself is not needed. What Debian's packages give is not tested here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request

import pytest
import yaml

from conftest import ROOT
from images import build, ignored, stages, without_make
from scripts.__main__ import COMMANDS

PLACES = ("/studies", "/labels", "/app", "/store")  # volumes


def serve(command, place, address):
    """Answer of a server to the first request that succeeds; the process is stopped."""
    with open(place / "log", "w") as log:
        process = subprocess.Popen(
            command, cwd=place, env=without_make(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(240):
            assert process.poll() is None, (place / "log").read_text()[-3000:]
            try:
                return urllib.request.urlopen(address, timeout=5).read()
            except OSError:
                time.sleep(1)
        pytest.fail((place / "log").read_text()[-3000:])
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def with_places(command, folder):
    """A command with folders in the place of volumes."""
    text = json.dumps(command)
    for place in PLACES:
        (folder / place[1:]).mkdir(exist_ok=True)
        text = re.sub(rf"(?<![\w-]){place}", str(folder / place[1:]), text)
    return json.loads(text)


def test_compose_starts_what_the_dockerfile_builds():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    built = stages()
    assert {service["build"]["target"] for service in services.values()} == set(built)
    for name, service in services.items():
        commands = dict(built[service["build"]["target"]])
        volumes = [v["target"] if isinstance(v, dict) else v.rpartition(":")[2] for v in service["volumes"]]
        assert name == "scripts" or all(volume in commands["CMD"] for volume in volumes)
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")  # not every machine
    used = re.findall(r"run --rm scripts (\w+)", (ROOT / "compose.yaml").read_text())
    assert used and set(used) <= set(COMMANDS)


def test_compose_keeps_labels_and_trained_weights_outside_of_the_container():
    volumes = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["label"]["volumes"]
    sources = dict((v["target"], v["source"]) if isinstance(v, dict) else v.split(":")[::-1] for v in volumes)
    assert sources["/labels"] == "${LABELS:-./containers/labels}" and sources["/app"] == "./containers/app"
    assert {"LABELS=/labels", "APP=/app"} <= set(json.loads(dict(stages()["label"])["CMD"]))


def test_the_image_gets_neither_environments_nor_patients():
    files = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    needed = {"Makefile", "pyproject.toml", "README.md", "LICENSE", "serving", "bundle"}
    own = {path.split("/")[0] for path in files.split()}
    assert own - ignored(str(ROOT), own) == needed
    assert ignored(str(ROOT), [".venv", ".venv-label", "demo", "runs", "bundle"]) == {
        ".venv", ".venv-label", "demo", "runs",
    }  # fmt: skip
    assert ignored(str(ROOT / "serving"), ["app", "studies", "serve.py"]) == {"app", "studies"}
    bundle = {path.split("/")[1] for path in files.split() if path.startswith("bundle/")}
    assert ignored(str(ROOT / "bundle"), [*bundle, "eval", "P01_seg.nii.gz"]) == {"eval", "P01_seg.nii.gz"}
    assert ignored(str(ROOT / "bundle" / "configs"), ["train.yaml"]) == set()


@pytest.mark.slow
def test_the_mlflow_image_answers_under_its_name_in_compose(tmp_path, free_port):
    place, command = build("mlflow", tmp_path)
    port = str(free_port())
    command = with_places([port if word == "5000" else word for word in command], tmp_path)
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    answer = serve(command, place, urllib.request.Request(address, headers={"Host": "mlflow:5000"}))
    assert json.loads(answer)["experiment"]["name"] == "Default"


@pytest.mark.slow
def test_the_label_image_serves_patients(label_image, tmp_path, free_port, cohort_source):
    place, command = label_image
    shutil.copytree(cohort_source / "data", tmp_path / "studies")
    port = free_port()
    answer = serve([*with_places(command, tmp_path), f"PORT={port}"], place, f"http://127.0.0.1:{port}/info/")
    assert json.loads(answer)["datastore"]["total"] == 6


@pytest.mark.slow
def test_the_demo_image_starts_the_demo_and_predicts(tmp_path):
    place, command = build("demo", tmp_path)
    assert command == ["make", "demo"]
    steps = subprocess.run(["make", "-n", "demo"], cwd=place, env=without_make(), capture_output=True, text=True).stdout
    assert " install " not in steps  # nothing is installed again
    (phantom,) = (line for line in steps.splitlines() if " -m scripts phantom " in line)
    small = phantom.replace("--cases 24", "--cases 2")
    out = f"cd bundle && {place}/.venv/bin/python -m scripts predict --dataset_dir {place}/demo/data --output_dir out"
    for line in (small, out):
        done = subprocess.run(["sh", "-c", line], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((place / "bundle" / "out").glob("*_seg.nii.gz"))) == 2
