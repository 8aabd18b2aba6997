import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scripts.evaluation.calibration import Calibration, bin_counts
from scripts.evaluation.calibration_table import merge_calibration


def test_bins_by_hand():
    probability = torch.tensor([0.05, 0.15, 0.19, 1.0])
    counts = bin_counts(probability, torch.tensor([False, True, False, True]))
    assert counts[0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert counts[1, 1] == pytest.approx(0.34)
    assert counts[2].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_voxels_that_are_what_they_were_given_are_calibrated(tmp_path):
    """Labels drawn from the probabilities themselves: frequency equals probability, and zeros do not count."""
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([0.5] * 4, 40_000).T.reshape(4, 40, 40, 25)
    label = (random.random((40, 40, 25)) > probabilities.cumsum(0)).sum(0)[None].clip(max=3)
    probabilities[:, :5] = 0
    handler = Calibration(str(tmp_path))
    item = {"probabilities": torch.from_numpy(probabilities), "label": torch.from_numpy(label)}
    engine = SimpleNamespace(state=SimpleNamespace(output=[item]))
    handler(engine)
    handler.write(engine)
    with open(tmp_path / "calibration.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 and sum(int(row["voxels"]) for row in rows) == 3 * 35 * 40 * 25
    for row in rows:
        assert float(row["frequency"]) == pytest.approx(float(row["probability"]), abs=0.04)


def test_calibration_is_averaged_over_voxels(tmp_path):
    head = "region,bin,voxels,probability,frequency\n"
    (tmp_path / "a.csv").write_text(head + "WT,3,10,0.30,0.20\nWT,4,0,0.0,0.0\n")
    (tmp_path / "b.csv").write_text(head + "WT,3,30,0.38,0.40\nWT,4,5,0.45,0.60\n")
    rows = merge_calibration([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [row["voxels"] for row in rows] == [40, 5]
    assert float(rows[0]["probability"]) == pytest.approx(0.36) and float(rows[0]["frequency"]) == pytest.approx(0.35)
    assert float(rows[1]["frequency"]) == pytest.approx(0.6)
