"""MONAI Label: its training request in this process, and the real server over HTTP."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.bundle import run as bundle_run

from conftest import BUNDLE, ROOT, TINY, bare_errors
from scripts.command import command_line_options
from scripts.errors import UserError

NAME = "brats_t1ce_kd_segmentation"


@pytest.mark.parametrize("run_id", ["run", "training", ""])
def test_images_and_labels_alone_train_the_student_alone(run_id, cohort_source, tmp_path):
    """What MONAI Label's training task gives to monai.bundle.run: no datalist, no folder, no other sequence."""
    root = tmp_path / NAME
    shutil.copytree(BUNDLE, root, ignore=shutil.ignore_patterns("__pycache__", "eval"))
    before = torch.load(root / "models" / "model.pt", weights_only=True)
    patients = [path for path in sorted((cohort_source / "data").iterdir()) if path.is_dir()]
    data = [{"image": str(p / f"{p.name}_t1ce.nii.gz"), "label": str(p / f"{p.name}_seg.nii.gz")} for p in patients]
    settings = {key: yaml.safe_load(value) for key, value in command_line_options(TINY).items()}
    handlers = yaml.safe_load((root / "configs" / "train.yaml").read_text())["train"]["handlers"]
    loader = {"_target_": "CheckpointLoader", "load_path": str(root / "models" / "model.pt"), "strict": False}
    overrides = {
        **settings, "bundle_root": str(root), "device": "cpu", "learning_rate": 0.0, "train#trainer#max_epochs": 1,
        "student_widths": [8, 16, 32, 64], "train#dataset#data": data[:4], "validate#dataset#data": data[4:],
        "train#handlers": [{**loader, "load_dict": {"model": "$@network"}}, *handlers],
    }  # fmt: skip
    bundle_run(run_id, config_file=str(root / "configs" / "train.yaml"), logging_file=False, **overrides)
    after = torch.load(root / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(after[name], value) for name, value in before.items())  # started there, and a rate of 0
    with open(root / "eval" / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert not any(name.startswith(("loss/teacher", "loss/distil", "weight/")) for name in row)


def test_the_server_checks_images_as_inference_does(cohort_source, tmp_path):
    """The copy's preprocessing, as MONAI Label reads it: without the data set of inference.yaml."""
    spec = importlib.util.spec_from_file_location("serve", ROOT / "serving" / "serve.py")
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    (tmp_path / "main.py").touch()  # MONAI Label's app is there
    for _ in range(2):
        serve.stage(tmp_path)
    parser = ConfigParser()
    parser.read_config(tmp_path / "model" / NAME / "configs" / "inference.yaml")
    preprocessing = parser.get_parsed_content("preprocessing")
    source = cohort_source / "data" / "phantom_0000"
    image = preprocessing({"image": str(source / "phantom_0000_t1ce.nii.gz")})["image"]
    own = ConfigParser()
    own.read_config(BUNDLE / "configs" / "inference.yaml")
    assert torch.equal(
        image, own.get_parsed_content("preprocessing")({"image": image.meta["filename_or_obj"]})["image"]
    )
    assert len(preprocessing.transforms) == len(own["preprocessing"]["transforms"]) + 1
    with pytest.raises(UserError, match=r"phantom_0000_seg\.nii\.gz"), bare_errors():
        preprocessing({"image": str(source / "phantom_0000_seg.nii.gz")})


@pytest.fixture
def study(tmp_path, cohort_source):
    """One T1ce volume, turned and with odd sizes, as the only study."""
    source = nib.load(cohort_source / "data" / "phantom_0000" / "phantom_0000_t1ce.nii.gz")
    voxels = np.asarray(source.dataobj)[:, :, :29].transpose(2, 0, 1)[::-1]
    affine = np.array([[0, 0, 4.5, -60], [-3.1, 0, 0, 50], [0, 2.9, 0, -30], [0, 0, 0, 1]])
    (tmp_path / "studies").mkdir()
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), tmp_path / "studies" / "case.nii.gz")
    return tmp_path / "studies" / "case.nii.gz"


@pytest.fixture
def server(study, tmp_path, free_port):
    """``make label``, in a process group of its own."""
    port = free_port()
    line = ["make", "label", f"STUDIES={study.parent}", f"PORT={port}", f"APP={tmp_path / 'app'}"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            line, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    deadline = time.time() + 900  # the first time, its environment is made
    while time.time() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/info/", timeout=5)
            break
        except OSError:
            time.sleep(1)
    else:
        pytest.fail((tmp_path / "log").read_text()[-3000:])
    yield address
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)


@pytest.mark.slow
def test_the_server_gives_the_label_map_that_inference_writes(server, study, tmp_path, command):
    with urllib.request.urlopen(f"{server}/info/") as answer:
        info = json.load(answer)
    assert info["models"][NAME]["labels"] == {"ncr": 1, "ed": 2, "et": 4}
    assert NAME in info["trainers"]
    boundary, body = "b0undary", json.dumps({"device": "cpu"})
    form = f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{body}\r\n--{boundary}--\r\n'
    request = urllib.request.Request(
        f"{server}/infer/{NAME}?image=case&output=image",
        data=form.encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        (tmp_path / "served.nii.gz").write_bytes(answer.read())
    result = command(
        "monai.bundle", "run", "--config_file", "configs/inference.yaml", "--dataset_dir", study,
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    image, served, written = (
        nib.load(p) for p in (study, tmp_path / "served.nii.gz", tmp_path / "out/case_seg.nii.gz")
    )
    assert served.shape == image.shape
    np.testing.assert_allclose(served.affine, image.affine, atol=1e-3)
    labels = np.asarray(served.dataobj)
    assert set(np.unique(labels)) <= {0, 1, 2, 4}
    assert (labels == np.asarray(written.dataobj)).mean() > 0.999 and (labels > 0).any()
