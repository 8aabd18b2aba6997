"""How hard each term pulls, against gradients by hand."""

from __future__ import annotations

import pytest
import torch
from pull import pull, pulls

from scripts.errors import UserError


def test_pulls_are_those_of_the_gradients():
    weights = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)]
    (a, b), c = weights[0], weights[1][0]
    terms = {"student": 3 * a, "student_deep_1": 4 * c, "distil_flair": -5 * a, "distil_t2": 10 * b}
    found = pulls(terms, weights)  # labels: (3, 0, 4), of length 5
    assert found["distil_flair"] == pytest.approx((1.0, -3 / 5))
    assert found["distil_t2"] == pytest.approx((2.0, 0.0))
    assert found["together"] == pytest.approx((5**0.5, -15 / 125**0.5 / 5))


def test_a_folder_without_a_training_is_refused(tmp_path):
    with pytest.raises(UserError, match="training.json does not exist: give the output_dir"):
        pull(str(tmp_path))
