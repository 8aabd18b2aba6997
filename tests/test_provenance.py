"""The record of a training, and warnings where it differs from the settings in use."""

import json
import re
import subprocess

import pytest
import yaml

from conftest import BUNDLE
from scripts import environment
from scripts.data.seen_patients import training_records
from scripts.settings import provenance
from scripts.settings.provenance import compare_with_training


@pytest.mark.parametrize(
    "trained, now, warning",
    [
        ([2, 2, 2], None, "spacing is None, but .*model.pt was trained with \\[2, 2, 2\\]"),
        ("$None", [2, 2, 2], "spacing is \\[2, 2, 2\\], but .* was trained with None"),
        ("$None", None, ""),
        ([2, 2, 2], [2, 2, 2], ""),
        ([2, 2, 2], (2.0, 2.0, 2), ""),  # as MONAI reads --spacing 2.0,2.0,2
        ([2, 2, 2], (2.0, 2.0, 3), "spacing is \\[2.0, 2.0, 3\\], but .* was trained with \\[2, 2, 2\\]"),
    ],
)
def test_weights_used_at_another_spacing_than_they_were_trained_at_are_warned_of(
    tmp_path, caplog, trained, now, warning
):
    (tmp_path / "training.json").write_text(json.dumps({"configuration": {"spacing": trained}}))
    compare_with_training(str(tmp_path / "models" / "model.pt"), spacing=now, student_sequence="t1ce")
    assert len(caplog.records) == bool(warning)
    assert re.search(warning, caplog.text)


def test_weights_without_a_record_are_taken_as_they_are(tmp_path, caplog):
    compare_with_training([str(tmp_path / "model.pt")], spacing=None)
    assert not caplog.records


def test_the_shipped_weights_say_what_they_were_trained_with(caplog):
    """So other windows, which cost Dice (experiments/trials.md), are warned of."""
    train = yaml.safe_load((BUNDLE / "configs" / "train.yaml").read_text())
    keys = ("spacing", "window_size", "student_sequence", "student_widths", "deep_supervision")
    settings = {key: train[key] for key in keys}
    weights = str(BUNDLE / "models" / "model.pt")
    ((_, record),) = training_records(weights)
    assert record["configuration"] == settings
    compare_with_training(weights, **settings)
    assert not caplog.records
    compare_with_training(weights, **settings | {"window_size": [96, 96, 96]})
    assert "window_size is [96, 96, 96], but" in caplog.text


@pytest.mark.parametrize("target, warns", [("scripts.data.moved.Step", False), ("scripts.data.steps.Other", True)])
def test_other_preprocessing_is_warned_of_but_not_a_class_that_moved(target, warns, tmp_path, caplog, monkeypatch):
    configuration = {"preprocessing": {"transforms": [{"_target_": "scripts.data.steps.Step"}]}}
    (tmp_path / "training.json").write_text(json.dumps({"configuration": configuration}))
    now = {"preprocessing": {"transforms": [{"_target_": target}]}}
    monkeypatch.setattr(provenance, "merged_config", lambda: now)
    compare_with_training(str(tmp_path / "models" / "model.pt"))
    assert ("preprocessing is not that" in caplog.text) == warns


def test_the_revision_is_that_of_the_bundle(tmp_path, monkeypatch):
    """A bundle that lies in another repository, not added there, has none; changes elsewhere do not count."""

    def git(*words):
        line = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    for path in (other := tmp_path / "other.py", config := tmp_path / "bundle" / "configs" / "train.yaml"):
        path.write_text("1")
    monkeypatch.setattr(environment, "BUNDLE", tmp_path / "bundle")
    assert environment.revision() is None
    git("init", "-q")
    for added, path, text, expected in [
        ("other.py", other, "1", "none"), ("bundle", other, "2", "commit"), ("bundle", config, "2", "commit+"),
    ]:  # fmt: skip
        git("add", added)
        git("commit", "-qm", "a", "--allow-empty")
        path.write_text(text)
        assert str(environment.revision()).lower() == expected.replace("commit", git("rev-parse", "HEAD"))
