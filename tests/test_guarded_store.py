"""The checks of serving/: what a request may change and which labels it may bring, without MONAI Label's server."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from fastapi import HTTPException
from monai.bundle import ConfigParser

from conftest import BUNDLE, ROOT


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.array(values, np.uint8).reshape(-1, 1, 1), np.eye(4)), path)
    return path


class Store:
    """MONAI Label's store of a folder, as far as the checks see it: it writes to where a link leads."""

    def __init__(self, folder):
        self.folder = folder

    def list_images(self):
        return [path.name[:-7] for path in self.folder.glob("*.nii.gz")]

    def get_image_uri(self, image):
        return os.path.realpath(self.folder / f"{image}.nii.gz") if image in self.list_images() else ""

    def add_image(self, image, file, info):
        shutil.copy(file, os.path.realpath(self.folder / (image + "".join(Path(file).suffixes))))
        return image

    def remove_image(self, image):
        os.remove(self.get_image_uri(image))

    def save_label(self, image, file, tag, info):
        shutil.copy(file, self.folder / "labels" / tag / f"{image}.nii.gz")
        return image

    def datalist(self):
        return [{"label": str(path)} for path in sorted(self.folder.glob("labels/final/*"))]


@pytest.fixture
def label_app(tmp_path, monkeypatch):
    """The app of label_app.py on stand-ins for MONAI Label, with a link to a patient's file in its folder."""

    class MyApp:
        def init_datastore(self):
            return Store(Path(self.studies))

        def datastore(self):
            return self.store

        def train(self, request):
            return {"trained": True}

    names = {
        "bundle_app": {"MyApp": MyApp},
        "monailabel.interfaces.app": {"MONAILabelApp": type("MONAILabelApp", (), {})},
        "monailabel.tasks.activelearning.epistemic": {"Epistemic": object},
        "monailabel.tasks.infer.bundle": {"BundleInferTask": object},
        "monailabel.tasks.scoring.epistemic_v2": {"EpistemicScoring": object},
    }
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(ROOT / "serving"))
    monkeypatch.delitem(sys.modules, "label_app", raising=False)
    app = importlib.import_module("label_app").LabelApp()
    app.studies = str(tmp_path / "server")
    (tmp_path / "server" / "labels" / "final").mkdir(parents=True)
    (tmp_path / "server" / "P01.nii.gz").symlink_to(save(tmp_path / "studies" / "P01.nii.gz", [1]))
    app.store, app._infers = app.init_datastore(), {"model": SimpleNamespace(labels={"ncr": 1, "ed": 2, "et": 3})}
    return app


def test_no_request_changes_a_patients_file(label_app, tmp_path):
    store, other = label_app.store, save(tmp_path / "other.nii.gz", [0, 3])
    patient = tmp_path / "studies" / "P01.nii.gz"
    before = patient.read_bytes()
    (tmp_path / "plain.nii").write_bytes(b"")
    for refused in (
        lambda: store.add_image("P01", str(other), {}),
        lambda: store.add_image("P01", str(tmp_path / "plain.nii"), {}),  # it would stand for the patient
        lambda: store.add_image("../studies/P01", str(other), {}),
        lambda: store.add_image(str(tmp_path / "studies" / "P02"), str(other), {}),
        lambda: store.remove_image("P01"),
        lambda: store.save_label("P01", str(other), "../../studies", {}),
    ):
        with pytest.raises(HTTPException, match="'.*' is a patient's file, or outside") as error:
            refused()
        assert error.value.status_code == 403
    assert patient.read_bytes() == before and list(patient.parent.iterdir()) == [patient]
    store.add_image("mine", str(other), {})
    store.add_image("mine", str(other), {})
    assert (tmp_path / "server" / "mine.nii.gz").read_bytes() == other.read_bytes()
    store.remove_image("mine")
    assert store.list_images() == ["P01"]
    with pytest.raises(HTTPException, match="image is 'mine', which is not among the studies: P01"):
        store.remove_image("mine")


@pytest.mark.parametrize("ending", [".nii.gz", ".bin"])
def test_a_label_with_a_value_without_a_name_is_refused(label_app, ending, tmp_path):
    label = tmp_path / f"label{ending}"
    for values, sentence in (
        ([0, 1, 2, 3, 4], "label of 'P01' holds 4, expected 0 background, 1 ncr, 2 ed, 3 et"),
        ([0, 4, 7], "holds 4, 7"),
    ):
        save(label, values) if ending != ".bin" else label.write_bytes(bytes(values))
        with pytest.raises(HTTPException, match=sentence) as error:
            label_app.store.save_label("P01", str(label), "final", {})
        assert error.value.status_code == 422
    save(label, [0, 3]) if ending != ".bin" else label.write_bytes(bytes([0, 3]))
    assert label_app.store.save_label("P01", str(label), "final", {}) == "P01"
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(HTTPException, match="label of 'P01' cannot be read .*: send NIfTI"):
        label_app.store.save_label("P01", str(tmp_path / "text.nii.gz"), "final", {})


def test_training_names_a_label_with_a_value_without_a_name(label_app, tmp_path):
    final = tmp_path / "server" / "labels" / "final"
    save(final / "early.nii.gz", [0, 1, 2, 4])  # of an earlier server, where ET was 4
    save(final / "now.nii.gz", [0, 1, 2, 3])
    assert label_app.train({}) == {"trained": True}
    save(final / "other.nii.gz", [0, 3, 4])
    with pytest.raises(HTTPException, match=r"other\.nii\.gz holds 4, expected"):
        label_app.train({})


@pytest.mark.parametrize("et", [3, 4])
def test_training_takes_labels_of_this_server_and_of_an_earlier_one(et, tmp_path):
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "train.yaml")
    read = parser.get_parsed_content("read_label")
    label = read({"label": str(save(tmp_path / "label.nii.gz", [0, 1, 2, et]))})["label"]
    assert label.flatten().tolist() == [0, 1, 2, 3]
