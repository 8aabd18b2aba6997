"""What serving/serve.py does before MONAI Label's server starts."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from conftest import BUNDLE, ROOT, bare_errors
from scripts.errors import UserError

NAME = "brats_t1ce_kd_segmentation"


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "serving"))
    return importlib.import_module("serve")


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.array(values, np.uint8).reshape(-1, 1, 1), np.eye(4)), path)
    return path


def links_of(folder):
    return {path.name: path.resolve() for path in folder.iterdir() if path.is_symlink()}


def test_the_server_works_in_a_folder_of_links(serve, cohort, tmp_path, capsys):
    patients, labels = cohort / "data", tmp_path / "labels"
    before = sorted(cohort.rglob("*"))
    labels.mkdir()
    (labels / "uploaded.nii.gz").touch()
    (labels / "gone.nii.gz").symlink_to(tmp_path / "nowhere")
    (labels / "notes").symlink_to(tmp_path)  # the user's own
    assert serve.view(str(patients), str(labels)) == labels
    assert links_of(labels) == {"notes": tmp_path} | {
        f"{p.name}.nii.gz": p / f"{p.name}_t1ce.nii.gz" for p in patients.iterdir() if p.is_dir()
    }
    assert sorted(cohort.rglob("*")) == before and (labels / "uploaded.nii.gz").is_file()
    flat = tmp_path / "flat"
    save(flat / "b.nii.gz", [1])
    save(flat / "labels" / "final" / "b.nii.gz", [1])
    serve.view(str(flat), str(labels))
    assert links_of(labels) == {"notes": tmp_path, "b.nii.gz": flat / "b.nii.gz"}
    assert (labels / "uploaded.nii.gz").is_file()
    assert f"{flat}/labels holds labels of an early server" in capsys.readouterr().out
    shutil.copytree(flat / "labels", labels / "labels")
    serve.view(str(flat), str(labels))
    assert capsys.readouterr().out == ""


def test_an_uploaded_volume_with_the_name_of_a_patient_is_named_and_kept(serve, tmp_path):
    volume, uploaded = save(tmp_path / "studies" / "P1.nii.gz", [1]), save(tmp_path / "labels" / "P1.nii.gz", [2])
    before = uploaded.read_bytes()
    with pytest.raises(SystemExit, match=f"uploaded volume {uploaded}, and {volume} has the same name"):
        serve.view(str(volume.parent), str(uploaded.parent))
    assert uploaded.read_bytes() == before and [*uploaded.parent.iterdir()] == [uploaded]


@pytest.mark.parametrize("early", [False, True])
def test_volumes_whose_names_end_in_capitals_are_served(serve, early, tmp_path):
    volume = save(tmp_path / "studies" / "P1.NII.GZ", [1])
    if early:
        (volume.parent / "labels" / "final").mkdir(parents=True)
    assert links_of(serve.view(str(volume.parent), str(tmp_path / "labels"))) == {"P1.nii.gz": volume}


def msd(folder):
    """MSD Task01 with one patient, whose sequences are in one file."""
    nib.save(
        nib.Nifti1Image(np.ones((4, 4, 4, 4), np.float32), np.eye(4)), save(folder / "imagesTr" / "B1.nii.gz", [1])
    )
    save(folder / "labelsTr" / "B1.nii.gz", [1])
    names = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}
    classes = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    pairs = [{"image": "./imagesTr/B1.nii.gz", "label": "./labelsTr/B1.nii.gz"}]
    (folder / "dataset.json").write_text(json.dumps({**names, "labels": classes, "training": pairs, "test": []}))


def dicom(folder):
    folder.mkdir()
    (folder / "IM0001").write_bytes(b"\0" * 128 + b"DICM")


@pytest.mark.parametrize(
    ("make", "labels", "sentence"),
    [
        (None, "", r"STUDIES is .*studies', which is no folder"),
        (
            Path.mkdir,
            "",
            r"STUDIES is .*studies': .* Rename files, or say which are which: T1CE=\"\*_T1post\.nii\.gz\"\.",
        ),
        (lambda d: save(d / "P1_POST.nii.gz", [save(d / "P1.nii.gz", [1]) and 1]), "", r"say it by .* T1CE=\""),
        (msd, "", r"STUDIES is .*, where a file holds several sequences \(.*B1\.nii\.gz\): use predict"),
        (dicom, "", r"STUDIES is .*, which holds DICOM: use predict, or a DICOMweb address"),
        (lambda d: save(d / "P1.nii.gz", [1]), "studies", r"LABELS is .*expected a folder apart from STUDIES"),
        (lambda d: save(d / "P1.nii.gz", [1]), "studies/below", r"LABELS is .*expected a folder apart from STUDIES"),
    ],
)
def test_studies_that_cannot_be_served_are_named(serve, make, labels, sentence, tmp_path):
    studies = tmp_path / "studies"
    if make:
        make(studies)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        serve.view(str(studies), labels and str(tmp_path / labels))
    assert re.search(sentence, str(stop.value), re.IGNORECASE) and "--" not in str(stop.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pattern_says_which_volumes_are_t1ce(serve, tmp_path):
    volume = save(tmp_path / "studies" / "P1_POST.nii.gz", [1])
    save(volume.with_name("P1.nii.gz"), [1])
    folder = serve.view(str(volume.parent), str(tmp_path / "labels"), "*_POST.nii.gz")
    assert links_of(folder) == {"P1.nii.gz": volume}
    line = subprocess.run(
        ["make", "-n", "label", "STUDIES=d", "T1CE=*_x.nii"], cwd=ROOT, capture_output=True, text=True
    )
    assert '--t1ce "*_x.nii"' in line.stdout


def test_labels_are_not_given_to_another_patient_of_that_name(serve, tmp_path):
    one, other = (save(tmp_path / folder / "P01.nii.gz", [1]).parent for folder in ("one", "other"))
    save(other / "P02.nii.gz", [1])
    os.utime(other / "P01.nii.gz", (1e9, 1e9))
    labels = tmp_path / "labels"
    for studies in (one, other, one):  # no label yet
        serve.view(str(studies), str(labels))
    save(labels / "labels" / "final" / "P01.nii.gz", [1])
    serve.view(str(one), str(labels))
    with pytest.raises(SystemExit, match=r"label of P01 is of another volume than .*other.*: give another folder"):
        serve.view(str(other), str(labels))
    serve.view(str(one), str(labels))
    assert links_of(labels) == {"P01.nii.gz": one / "P01.nii.gz"}
    (other / "P01.nii.gz").unlink()
    serve.view(str(other), str(labels))  # only P02; the label of P01 stays the first one's
    save(other / "P01.nii.gz", [1, 2])
    with pytest.raises(SystemExit, match="label of P01"):
        serve.view(str(other), str(labels))


@pytest.fixture
def app(serve, tmp_path, monkeypatch):
    """An empty folder for the app, as a volume of a container is, where MONAI Label's own app is made at once."""

    def download(line, **_):
        folder = Path(line[line.index("--output") + 1], "monaibundle")
        folder.mkdir()
        (folder / "main.py").write_text("class MyApp: ...")

    monkeypatch.setattr(serve.subprocess, "run", download)
    (tmp_path / "app").mkdir()
    return tmp_path / "app"


def test_the_app_is_made_in_a_folder_that_is_there(serve, app):
    serve.stage(app)
    assert (app / "bundle_app.py").read_text() == "class MyApp: ..."
    assert (app / "main.py").read_bytes() == (ROOT / "serving" / "label_app.py").read_bytes()


def test_the_copy_gets_new_weights_until_it_is_trained_and_no_runs(serve, app, tmp_path, monkeypatch, capsys):
    bundle, copy = tmp_path / "bundle", app / "model" / NAME
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.pt"))
    save(bundle / "out" / "P01_seg.nii.gz", [1])
    (bundle / "P02_seg.nii.gz").touch()
    monkeypatch.setattr(serve, "BUNDLE", bundle)
    weights = bundle / "models" / "model.pt"
    weights.parent.mkdir(exist_ok=True)
    for version in ("first", "second"):
        weights.write_text(version)
        serve.stage(app)
        assert (copy / "models" / "model.pt").read_text() == version
    assert {path.name for path in copy.iterdir()} == {"LICENSE", "configs", "docs", "models", "scripts"}
    assert capsys.readouterr().out == ""
    (copy / "models" / "model.pt").write_text("own")
    serve.stage(app)
    assert (copy / "models" / "model.pt").read_text() == "own"
    assert "model.pt is no copy of the shipped weights, so it is kept" in capsys.readouterr().out
    (copy / "models" / "shipped.sha256").unlink()
    (copy / "eval").mkdir()
    (copy / "eval" / "history.csv").touch()  # training through MONAI Label writes it
    weights.write_text("third")
    serve.stage(app)
    assert (copy / "models" / "model.pt").read_text() == "own"


def test_the_copy_checks_images_and_numbers_classes_without_a_gap(serve, app, cohort_source, tmp_path):
    """The copy's preprocessing, as MONAI Label reads it: without the data set of inference.yaml."""
    for _ in range(2):
        serve.stage(app)
    parser = ConfigParser()
    parser.read_config(app / "model" / NAME / "configs" / "inference.yaml")
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
    (to_disk,) = (step for step in parser["label_map"]["transforms"] if step["_target_"] == "MapLabelValued")
    assert parser.get_parsed_content(to_disk["target_labels"][1:]) == [0, 1, 2, 3]  # Slicer numbers its segments so


SERVER = "import os, sys, serve; serve.claim(serve.Path(sys.argv[1]), sys.argv[2]); "
SERVER += "os.execv(sys.executable, ['python', '-c', WAIT])"
WAIT = "print('serving', flush=True); input()"


def test_a_second_server_does_not_take_the_folder_of_one_that_runs(serve, tmp_path, monkeypatch):
    """Also after the process has become MONAI Label's server."""
    program = [sys.executable, "-c", SERVER.replace("WAIT", repr(WAIT)), str(tmp_path / "app"), "APP"]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen(program, cwd=ROOT / "serving", **options)
    try:
        assert first.stdout.readline() == "serving\n"
        with pytest.raises(SystemExit, match=f"{tmp_path}/app is in use by another server: .* APP=DIR"):
            serve.claim(tmp_path / "app", "APP")
        studies, labels = tmp_path / "studies", tmp_path / "labels"
        save(studies / "P1_t1ce.nii.gz", [1])
        options_of_two = ["--studies", str(studies), "--labels", str(labels), "--app", str(tmp_path / "app")]
        monkeypatch.setattr(sys, "argv", ["serve.py", *options_of_two])
        with pytest.raises(SystemExit, match="is in use"):
            serve.main()
        assert not labels.exists()  # the first server's links stay
    finally:
        first.communicate("\n", timeout=60)
    second = subprocess.run(program, cwd=ROOT / "serving", input="\n", capture_output=True, text=True, timeout=60)
    assert second.stdout == "serving\n", second.stderr


def test_a_second_server_with_its_own_app_does_not_take_the_labels_of_one_that_runs(serve, tmp_path):
    volume, labels = save(tmp_path / "studies" / "P1_t1ce.nii.gz", [1]), tmp_path / "labels"
    program = [sys.executable, "-c", SERVER.replace("WAIT", repr(WAIT)), str(labels), "LABELS"]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen(program, cwd=ROOT / "serving", **options)
    try:
        assert first.stdout.readline() == "serving\n"
        with pytest.raises(SystemExit, match=f"{labels} is in use by another server: .* LABELS=DIR"):
            serve.view(str(volume.parent), str(labels))
        assert links_of(labels) == {} and not (labels / ".lock").exists()  # this is MONAI Label's own
    finally:
        first.communicate("\n", timeout=60)
    assert links_of(serve.view(str(volume.parent), str(labels))) == {"P1.nii.gz": volume}
