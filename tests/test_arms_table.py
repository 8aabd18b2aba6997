"""The table of all arms, against means by hand."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from arms_table import arms_table
from scripts.errors import UserError
from scripts.evaluation.metrics import COLUMNS
from scripts.evaluation.summary import CaseScore, write_scores


@pytest.fixture
def scored(tmp_path):
    def write(folder: str, dice: list[float], fold: int = 0) -> None:
        path = tmp_path / folder / f"fold_{fold}" / "metrics.csv"
        path.parent.mkdir(parents=True)
        scores = [
            CaseScore(f"case_{fold}{index}", region, dict.fromkeys(COLUMNS, value), False)
            for index, value in enumerate(dice)
            for region in ("WT", "TC", "ET")
        ]
        write_scores(path, scores, "brats")

    return write


def test_each_arm_is_compared_with_the_mean_over_seeds(scored, tmp_path, capsys):
    scored("alone_s0", [0.1, 0.5])
    scored("alone_s1", [0.3, 0.7])
    scored("distilled_s0", [0.3, 0.8])  # minus (0.2, 0.6): 0.1 and 0.2
    arms_table(str(tmp_path), picture=str(tmp_path / "arms.png"))
    assert matplotlib.image.imread(tmp_path / "arms.png").std() > 0  # a picture with something on it
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    table = {row[0]: row[1:] for row in rows[2:]}
    assert list(table) == ["(alone itself)", "distilled"]
    assert table["(alone itself)"][:2] == ["2", "2"]
    assert table["(alone itself)"][2].split()[0] == f"{np.mean([0.1, 0.5, 0.3, 0.7]):.3f}"
    assert table["distilled"][:3] == ["2", "1", "0.150 [0.100, 0.200]"]
    with pytest.raises(UserError, match="holds no metrics.csv of nobody"):
        arms_table(str(tmp_path), baseline="nobody")


def test_folds_and_lists_are_one_table(scored, tmp_path, capsys):
    scored("first/alone_s0", [0.1, 0.5])
    scored("second/alone_s0", [0.4, 0.4], fold=1)
    scored("second/better_s0", [0.5, 0.6], fold=1)  # of two of the four patients
    arms_table(f"{tmp_path / 'first'},{tmp_path / 'second'}")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert rows[2][:4] == ["(alone itself)", "4", "1", rows[2][3]] and rows[2][3].startswith("0.350 ")
    assert rows[3][:4] == ["better", "2", "1", "0.150 [0.100, 0.200]"]


def test_what_is_not_finished_is_compared_on_shared_patients(scored, tmp_path, capsys):
    scored("alone_s0", [0.1, 0.5])
    scored("alone_s1", [0.3, 0.7])
    scored("alone_s0", [0.9, 0.9], fold=1)  # which seed 1 has not
    scored("better_s0", [0.4, 0.9])  # minus (0.2, 0.6): with seed 1 0.1 and 0.1
    scored("better_s1", [0.2, 0.5])
    scored("better_s1", [0.0, 0.0], fold=1)
    scored("later_s0", [0.5], fold=1)
    arms_table(str(tmp_path))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in rows[2:]] == [["(alone itself)", "2", "2"], ["better", "2", "2"], ["later", "0", "1"]]
    assert rows[2][3].startswith("0.400 ") and rows[3][3] == "0.100 [0.100, 0.100]"
    assert len({len(row) for row in rows}) == 1
    scored("other_s0", [0.5])
    scored("other_s1", [0.5], fold=1)
    with pytest.raises(UserError, match="seeds of other .* no patient in common"):
        arms_table(str(tmp_path), baseline="other")
