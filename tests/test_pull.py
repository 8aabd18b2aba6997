"""How hard each term pulls, against gradients by hand."""

from __future__ import annotations

import pytest
import torch

from pull import pull, pulls
from scripts.errors import UserError

SMALL = [
    "--spacing", "$None", "--roi_size", "[16,16,16]", "--window_size", "[16,16,16]", "--student_widths", "[4,4,8,8]",
    "--teachers::flair::network::widths", "[4,4,8,8]", "--cache", "memory", "--num_workers", "0", "--amp", "False",
    "--learning_rate", "0.003", "--epochs", "2",
]  # fmt: skip


def test_pulls_are_those_of_the_gradients():
    weights = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)]
    (a, b), c = weights[0], weights[1][0]
    terms = {"student": 3 * a, "student_deep_1": 4 * c, "distil_flair": -5 * a, "distil_t2": 10 * b}
    terms["teacher_t2"] = torch.zeros((), requires_grad=True) * 2  # does not reach the student
    found = pulls(terms, weights)  # labels: (3, 0, 4), of length 5
    assert found["distil_flair"] == pytest.approx((1.0, -3 / 5))
    assert found["distil_t2"] == pytest.approx((2.0, 0.0))
    assert "teacher_t2" not in found
    assert found["together"] == pytest.approx((5**0.5, -15 / 125**0.5 / 5))
    assert pulls({"distil_t2": 10 * b}, weights) == {}  # a batch without a label


def test_a_folder_without_a_training_is_rejected(tmp_path):
    with pytest.raises(UserError, match="training.json does not exist: give the output_dir"):
        pull(str(tmp_path))


@pytest.mark.slow
def test_a_training_is_taken_as_it_ended(command, data_options, tmp_path, capsys):
    """With its teachers' last weights: a weight twenty times as large pulls twenty times as hard."""
    line = ["monai.bundle", "run", "training", "--config_file", "configs/train.yaml", *SMALL, *data_options]
    result = command(*line, "--output_dir", tmp_path, "--ckpt_dir", tmp_path / "models")
    assert result.returncode == 0, result.stderr[-2000:]
    before = printed(tmp_path, capsys)
    assert before.keys() == {"distil_flair", "distil_t2", "distil_t1", "distil_fusion_1", "together"}
    path = tmp_path / "models" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["confidence"]["weights"] *= torch.tensor([20, 1, 1])
    torch.save(state, path)
    after = printed(tmp_path, capsys)
    assert after["distil_flair"] == pytest.approx(20 * before["distil_flair"], abs=0.11) and before["distil_flair"] > 0
    assert after["distil_t2"] == before["distil_t2"]


def printed(run, capsys) -> dict[str, float]:
    """Pull over the labels' by term."""
    pull(str(run), batches=2)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {row[0]: float(row[1]) for row in rows if "_" in row[0] or row[0] == "together"}
