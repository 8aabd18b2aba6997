"""MONAI Label: its training request in this process, and the real server over HTTP."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import run as bundle_run

from conftest import BUNDLE, TINY
from scripts.command import command_line_options
from servers import Server

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


@pytest.fixture
def study(tmp_path, cohort_source):
    """A T1ce volume, turned and with odd sizes; beside it, another one and one without a brain."""
    source = nib.load(cohort_source / "data" / "phantom_0000" / "phantom_0000_t1ce.nii.gz")
    voxels = np.asarray(source.dataobj)[:, :, :29].transpose(2, 0, 1)[::-1]
    affine = np.array([[0, 0, 5.5, -60], [-4.8, 0, 0, 50], [0, 4.6, 0, -30], [0, 0, 0, 1]])
    (tmp_path / "studies").mkdir()
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), tmp_path / "studies" / "case.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 20), np.float32), affine), tmp_path / "studies" / "empty.nii.gz")
    shutil.copy(cohort_source / "data/phantom_0003/phantom_0003_t1ce.nii.gz", tmp_path / "studies" / "other.nii.gz")
    return tmp_path / "studies" / "case.nii.gz"


@pytest.fixture
def server(label_image, study, tmp_path, free_port):
    """``make label`` where its environment is made already."""
    port = free_port()
    folders = [f"STUDIES={study.parent}", f"LABELS={tmp_path / 'labels'}", f"APP={tmp_path / 'app'}"]
    line = ["make", "label", *folders, f"PORT={port}"]
    own = Server(line, f"http://127.0.0.1:{port}", "/info/", label_image[0], tmp_path / "log")
    yield own.start({key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}).uri
    own.end()


def post(address, **fields):
    """Status and body of a POST of form fields."""
    boundary = "b0undary"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    request = urllib.request.Request(
        address,
        data=(("".join(parts) + f"--{boundary}--\r\n") if parts else "").encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"} if parts else {},
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def send(method, address, **files):
    """Status and body of a request with files."""
    parts = [word for field, file in files.items() for word in ("-F", f"{field}=@{file}")]
    line = ["curl", "-s", "-w", " %{http_code}", "-X", method, *parts, address]
    body, _, status = subprocess.run(line, capture_output=True, text=True).stdout.rpartition(" ")
    return int(status), body


def map_uncertainty(out, image):
    """Entropy in the brain for each voxel of tumour, from what ``predict`` wrote."""
    entropy, labels = (
        np.asarray(nib.load(out / f"{image.name[:-7]}_{kind}.nii.gz").dataobj) for kind in ("entropy", "seg")
    )
    brain = np.asarray(nib.load(image).dataobj) != 0
    return entropy[brain].sum() / max(1, (labels[brain] > 0).sum())


@pytest.mark.slow
def test_the_server_gives_the_label_map_that_inference_writes(server, study, tmp_path, command):
    with urllib.request.urlopen(f"{server}/info/") as answer:
        info = json.load(answer)
    assert info["models"][NAME]["labels"] == {"ncr": 1, "ed": 2, "et": 3}
    assert NAME in info["trainers"]
    status, served = post(f"{server}/infer/{NAME}?image=case&output=image", params=json.dumps({"device": "cpu"}))
    assert status == 200, served
    (tmp_path / "served.nii.gz").write_bytes(served)
    for address, code, sentence in [
        (f"infer/{NAME}?image=nobody&output=image", 404, "image is 'nobody', .*: case, empty, other"),
        ("infer/nothing?image=case&output=image", 404, f"model is 'nothing', expected one of: {NAME}"),
        (f"infer/{NAME}?image=empty&output=image", 422, "empty.nii.gz"),
        ("activelearning/best", 404, "strategy is 'best', expected one of: uncertainty, random, first"),
    ]:
        status, answer = post(f"{server}/{address}", **({"params": "{}"} if "infer" in address else {}))
        assert status == code and re.search(sentence, json.loads(answer)["detail"]), answer
    result = command(
        "monai.bundle", "run", "--config_file", "configs/inference.yaml", "--dataset_dir", study.parent,
        "--output_dir", tmp_path / "out", "--uncertainty", "True",
    )  # fmt: skip
    assert "empty.nii.gz" in result.stderr, result.stderr[-2000:]
    image, served, written = (
        nib.load(p) for p in (study, tmp_path / "served.nii.gz", tmp_path / "out/case_seg.nii.gz")
    )
    assert served.shape == image.shape
    np.testing.assert_allclose(served.affine, image.affine, atol=1e-3)
    labels = np.asarray(served.dataobj)
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    expected = np.asarray(written.dataobj)
    assert (labels == np.where(expected == 4, 3, expected)).mean() > 0.999 and (labels > 0).any()
    deadline = time.time() + 300
    while json.load(urllib.request.urlopen(f"{server}/scoring/"))["status"] != "DONE" and time.time() < deadline:
        time.sleep(1)
    scores = {name: map_uncertainty(tmp_path / "out", study.parent / f"{name}.nii.gz") for name in ("case", "other")}
    first, second = (json.loads(post(f"{server}/activelearning/uncertainty")[1]) for _ in range(2))
    assert [first["id"], second["id"]] == sorted(scores, key=scores.get, reverse=True)
    assert first["uncertainty"] == pytest.approx(scores[first["id"]], rel=0.3)  # of another grid
    label = tmp_path / "served.nii.gz"
    status, answer = send("PUT", f"{server}/datastore/label?image=nobody", label=label)
    assert status == 404 and "image is 'nobody'" in answer
    status, answer = send("PUT", f"{server}/datastore/label?image=case", label=tmp_path / "out" / "case_seg.nii.gz")
    assert status == 422 and "holds 4, expected 0 background, 1 ncr, 2 ed, 3 et" in answer
    assert send("PUT", f"{server}/datastore/label?image=case", label=label)[0] == 200
    assert (tmp_path / "labels" / "labels" / "final" / "case.nii.gz").read_bytes() == label.read_bytes()
    before = {path.name: path.read_bytes() for path in study.parent.iterdir()}
    for method, address, files, code in (
        ("DELETE", "id=other", {}, 403), ("DELETE", "id=nobody", {}, 404), ("PUT", "image=other", {"file": label}, 403),
    ):  # fmt: skip
        status, answer = send(method, f"{server}/datastore/image?{address}", **files)
        assert status == code and f"image '{address.rpartition('=')[2]}'" in answer.replace("image is", "image")
    assert {path.name: path.read_bytes() for path in study.parent.iterdir()} == before
