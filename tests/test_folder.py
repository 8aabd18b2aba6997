"""The folder of a run holds nothing of an earlier run when a new one starts."""

import pytest

from scripts.training.folder import forget_earlier_run, forget_scores

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


def test_label_maps_that_are_made_again_lose_only_their_scores(used):
    forget_scores(str(used))
    assert [name for name in SCORES if (used / name).is_file()] == ["history.csv", "evaluation.json", "mlflow.json"]


def test_auto_without_a_checkpoint_is_a_new_training(used):
    (used / "models" / "checkpoint.pt").unlink()
    forget_earlier_run(str(used), str(used / "models"), "auto")
    assert not any((used / name).is_file() for name in SCORES)
