"""What a folder says of the runs in it stays true when another run begins there."""

import json
import re

import pytest
import yaml

from conftest import BUNDLE
from scripts.provenance import compare_with_training, forget_earlier_run, forget_scores, training_records

SCORES = ["history.csv", "evaluation.json", "metrics.csv", "metrics.json", "metrics_et_cleared.csv", "mlflow.json"]


@pytest.fixture
def used(tmp_path):
    """The folder of a run that was trained and evaluated."""
    (tmp_path / "models").mkdir()
    for name in [*SCORES, "models/checkpoint.pt", "models/model.pt", "case_seg.nii.gz", "report.html"]:
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize("resume, kept", [(False, False), (True, True), ("auto", True)])
def test_a_new_training_does_not_keep_the_scores_of_an_earlier_one(used, resume, kept, caplog):
    forget_earlier_run(str(used), str(used / "models"), resume)
    assert [(used / name).is_file() for name in SCORES] == [kept] * len(SCORES)
    assert (used / "case_seg.nii.gz").is_file() and (used / "models" / "checkpoint.pt").is_file()
    assert (used / "models" / "model.pt").is_file() is kept
    assert ("metrics.csv" in caplog.text) is not kept


def test_weights_outside_of_the_trainings_folder_are_kept(used):
    forget_earlier_run(str(used / "eval"), str(used / "models"), False)  # as MONAI Label trains
    assert (used / "models" / "model.pt").is_file()


def test_label_maps_made_anew_lose_their_scores_alone(used):
    forget_scores(str(used))
    assert [name for name in SCORES if (used / name).is_file()] == ["history.csv", "evaluation.json", "mlflow.json"]


def test_auto_without_a_checkpoint_is_a_new_training(used):
    (used / "models" / "checkpoint.pt").unlink()
    forget_earlier_run(str(used), str(used / "models"), "auto")
    assert not any((used / name).is_file() for name in SCORES)


@pytest.mark.parametrize(
    "trained, now, warning",
    [
        ([2, 2, 2], None, "spacing is None, but .*model.pt was trained with \\[2, 2, 2\\]"),
        ("$None", [2, 2, 2], "spacing is \\[2, 2, 2\\], but .* was trained with None"),
        ("$None", None, ""),
        ([2, 2, 2], [2, 2, 2], ""),
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
    """So other windows, which cost Dice (docs/defaults.md), are warned of."""
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
