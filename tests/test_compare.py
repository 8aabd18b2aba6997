import csv
import itertools

import numpy as np
import pytest
from matplotlib import pyplot as plt

from scripts.compare import compare, paired_difference
from scripts.errors import UserError
from scripts.summary import write_scores
from test_summary import scores


def exact_wilcoxon(differences):
    """Two-sided p of the signed-rank statistic over all 2^N signs; no ties, no zeros."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
    sums = [ranks[list(signs)].sum() for signs in itertools.product([False, True], repeat=len(ranks))]
    return min(1, 2 * np.mean([total <= observed for total in sums]))


def test_paired_difference_by_hand():
    a = np.array([0.9, 0.8, 0.7, 0.6, 0.5, np.nan])
    b = np.array([0.8, 0.6, 0.4, 0.65, 0.5, 0.1])
    result = paired_difference(a, b)
    assert result.difference.mean == pytest.approx(0.11)
    assert result.difference.patients == 5
    assert (result.wins, result.losses, result.ties) == (3, 1, 1)
    distances = paired_difference(a, b, less_is_better=True)
    assert (distances.wins, distances.losses, distances.ties) == (1, 3, 1)


def test_of_volume_errors_the_size_is_compared(tmp_path, capsys):
    for name, sign in (("a", -1), ("b", 1)):
        write_scores(tmp_path / name / "metrics.csv", scores([5.0 * sign, 9.0 * sign]), "brats")
    compare(str(tmp_path / "a"), str(tmp_path / "b"), output=str(tmp_path / "t.csv"))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("WT volume_error_ml"))
    assert line.split()[-4:] == ["1.000", "0", "0", "2"]


def test_p_is_the_exact_signed_rank_test():
    random = np.random.default_rng(3)
    a, b = random.random((2, 11)).round(4)
    assert paired_difference(a, b).p == pytest.approx(exact_wilcoxon((a - b).round(6)))


@pytest.mark.parametrize("patients, warned", [(5, True), (6, False)])
def test_patients_too_few_for_any_p_are_warned_of(patients, warned, tmp_path, caplog):
    gains = 0.1 * np.arange(1, patients + 1)
    assert bool(exact_wilcoxon(gains) < 0.05) is not warned
    for name, dice in (("a", gains), ("b", 0 * gains)):
        write_scores(tmp_path / name / "metrics.csv", scores(dice), "brats")
    compare(str(tmp_path / "a"), str(tmp_path / "b"))
    assert ("no p can fall below 0.05" in caplog.text) is warned


def test_the_interval_is_of_paired_differences():
    random = np.random.default_rng(0)
    patients = random.random(40)  # patients differ far more than the runs
    gain = 0.02 + 0.01 * random.standard_normal(40)
    low, high = paired_difference(patients + gain, patients).difference[1:3]
    assert 0.01 < low < gain.mean() < high < 0.03


def test_the_command_compares_common_patients(tmp_path, command):
    write_scores(tmp_path / "a" / "metrics.csv", scores([0.5, 0.7, 0.9]), "brats")
    write_scores(tmp_path / "b" / "metrics.csv", scores([0.4, 0.8]), "brats")
    result = command("scripts.compare", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "table.csv")
    assert result.returncode == 0, result.stderr
    assert "2 patients in both" in result.stdout and "case_2" in result.stderr
    with open(tmp_path / "table.csv", newline="") as file:
        rows = {(row["region"], row["metric"]): row for row in csv.DictReader(file)}
    assert len(rows) == 27
    row = rows["WT", "dice"]
    assert (float(row["mean_a"]), float(row["mean_b"])) == (pytest.approx(0.6), pytest.approx(0.6))
    assert (row["wins"], row["losses"]) == ("1", "1")


def test_equal_runs_do_not_differ(tmp_path, capsys):
    write_scores(tmp_path / "metrics.csv", scores([0.5, 0.7, 0.9]), "brats")
    compare(str(tmp_path), str(tmp_path))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("WT dice"))
    assert line.split()[-5:] == ["0.000]", "1.000", "0", "0", "3"]


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    write_scores(tmp_path / "a" / "metrics.csv", scores([0.5, 0.7]), "brats")
    write_scores(tmp_path / "b" / "metrics.csv", scores([0.5, 0.7]), "exclude")
    with pytest.raises(UserError, match="have the empty_rule 'brats' and 'exclude'"):
        compare(str(tmp_path / "a"), str(tmp_path / "b"))
    other = [item._replace(case="other") for item in scores([0.5])]
    write_scores(tmp_path / "c" / "metrics.csv", other, "brats")
    with pytest.raises(UserError, match="no patient in common"):
        compare(str(tmp_path / "a"), str(tmp_path / "c"))


def test_every_patients_difference_is_drawn(tmp_path):
    for name, dice in (("a", [0.5, 0.7, 0.9]), ("b", [0.4, 0.8, 0.9])):
        write_scores(tmp_path / name / "metrics.csv", scores(dice), "brats")
    pictures = [tmp_path / "new" / "ab.png", tmp_path / "aa.png"]
    compare(str(tmp_path / "a"), str(tmp_path / "b"), picture=str(pictures[0]))
    compare(str(tmp_path / "a"), str(tmp_path / "a"), picture=str(pictures[1]))
    assert not np.array_equal(*map(plt.imread, pictures))
    with pytest.raises(UserError, match="picture"):
        compare(str(tmp_path / "a"), str(tmp_path / "b"), picture=str(tmp_path / "x.doc"))


def test_of_several_seeds_each_patients_mean_is_compared(tmp_path, capsys):
    for name, dice in {"a0": [0.2, 0.8], "a1": [0.4, 0.6], "b": [0.1, 0.6], "other": [0.1, 0.2, 0.3]}.items():
        write_scores(tmp_path / name / "metrics.csv", scores(dice), "brats")
    compare(f"{tmp_path / 'a0'},{tmp_path / 'a1'}", str(tmp_path / "b"))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("WT dice "))
    assert line.split()[2:4] == ["0.500", "0.350"] and line.split()[-3:] == ["2", "0", "0"]
    with pytest.raises(UserError, match="score other patients"):
        compare(f"{tmp_path / 'a0'},{tmp_path / 'other'}", str(tmp_path / "b"))
