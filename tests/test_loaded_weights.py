"""Weights that a training starts with are compared with the record of their own training."""

import json

import pytest
import torch

from scripts.method.distillation import DistillationNetwork
from scripts.method.resunet import ResUNet
from scripts.method.teachers import Teacher
from scripts.training.loaded_weights import check_loaded_weights

WIDTHS = [4, 4, 4, 4]


@pytest.mark.parametrize("source", ["teacher", "pretrained"])
@pytest.mark.parametrize(
    "spacing, sequences, preprocessing, case, warning",
    [
        ([2, 2, 2], ["flair", "t2"], "as now", "other", None),
        ([1, 1, 1], ["flair", "t2"], "as now", "other", "spacing is [2, 2, 2], but"),
        ([2, 2, 2], ["t2", "flair"], "as now", "other", "{} is ['flair', 't2'], but"),
        ([2, 2, 2], ["flair", "t2"], "another", "other", "The preprocessing is not that of the training of"),
        ([2, 2, 2], ["flair", "t2"], "as now", "mine", "was trained on 1 of the 1 scans to be scored, such as mine"),
    ],
)
def test_weights_of_other_inputs_or_of_scored_patients_are_warned_of(
    source, spacing, sequences, preprocessing, case, warning, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("scripts.settings.provenance.merged_config", lambda: {"preprocessing": "as now"})
    weights = str(tmp_path / "models" / "model.pt")
    (tmp_path / "models").mkdir()
    torch.save(ResUNet(2, 4, WIDTHS).state_dict(), weights)
    configuration = {"spacing": spacing, "student_sequence": sequences, "preprocessing": preprocessing}
    record = {"configuration": configuration, "cases": [{"case": case}]}
    (tmp_path / "training.json").write_text(json.dumps(record))
    mine, name = (weights, None), "student_sequence"
    if source == "teacher":
        mine, name = (None, weights), "teachers::both::sequences"
    pretrained, checkpoint = mine
    teacher = Teacher(ResUNet(2, 4, WIDTHS), ["flair", "t2"], frozen=bool(checkpoint), checkpoint=checkpoint)
    student = ["t1ce"] if checkpoint else ["flair", "t2"]
    networks = DistillationNetwork(ResUNet(len(student), 4, WIDTHS), {"both": teacher}, student_sequence=student)
    check_loaded_weights(networks, pretrained, str(tmp_path / "out"), [2, 2, 2], [{"case": "mine"}])
    assert len(caplog.messages) == bool(warning)
    assert (warning or "").format(name) in caplog.text and (weights in caplog.text) == bool(warning)


def test_a_teachers_one_sequence_is_the_same_as_text_or_as_a_list(tmp_path, caplog):
    (tmp_path / "models").mkdir()
    weights = str(tmp_path / "models" / "model.pt")
    torch.save(ResUNet(1, 4, WIDTHS).state_dict(), weights)
    (tmp_path / "training.json").write_text(json.dumps({"configuration": {"student_sequence": "flair"}}))
    teacher = Teacher(ResUNet(1, 4, WIDTHS), ["flair"], frozen=True, checkpoint=weights)
    networks = DistillationNetwork(ResUNet(1, 4, WIDTHS), {"flair": teacher})
    check_loaded_weights(networks, None, str(tmp_path / "out"), None, [])
    assert not caplog.records
