"""How well voxels are ranked, and thresholds chosen on other folds' patients."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install '.[benchmark]'")

from ranking import HALF, THRESHOLDS, Ranking, columns_of, folders_by_fold, score
from scripts.errors import UserError


def test_average_precision_counts_the_brain_alone_and_dice_the_volume():
    tumour = np.array([[[0.9, 0.8, 0.7, 0.2, 0.95]]])
    truth = np.array([[[True, False, True, False, False]]])
    brain = np.array([[[True, True, True, True, False]]])
    found = score(tumour, truth, brain)
    assert found.precision == pytest.approx((1 / 1 + 2 / 3) / 2)  # hits at ranks 1 and 3 of the brain's voxels
    assert found.dice[HALF] == pytest.approx(2 * 2 / (4 + 2))
    assert found.dice[THRESHOLDS.index(0.85)] == pytest.approx(2 * 1 / (2 + 2))


def test_a_threshold_comes_from_the_other_folds():
    def patient(best: int) -> Ranking:
        return Ranking(0.5, np.where(np.arange(len(THRESHOLDS)) == best, 0.9, 0.1))

    scores = {(0, "a"): patient(3), (0, "b"): patient(12), (1, "c"): patient(12), (1, "d"): patient(12)}
    columns = columns_of(scores)
    # fold 0 takes step 12 from fold 1; fold 1 the first of fold 0's two equal ones, 3
    np.testing.assert_allclose(columns["dice_own_threshold"], [0.1, 0.9, 0.1, 0.1])
    np.testing.assert_allclose(columns["dice"], 0.1)
    np.testing.assert_allclose(columns_of({(0, "a"): patient(HALF)})["dice_own_threshold"], 0.9)  # no other fold


def test_seeds_of_a_fold_stand_together(tmp_path):
    for name in ("a_s0/fold_0", "a_s1/fold_0", "a_s0/fold_1"):
        (tmp_path / name).mkdir(parents=True)
    found = folders_by_fold(f"{tmp_path}/a_s*/fold_*")
    assert {fold: len(folders) for fold, folders in found.items()} == {0: 2, 1: 1}
    assert {fold: len(folders) for fold, folders in folders_by_fold(f"{tmp_path}/a_s*").items()} == {0: 2}
    with pytest.raises(UserError, match="no folder matches"):
        folders_by_fold(f"{tmp_path}/b_s*/fold_*")
