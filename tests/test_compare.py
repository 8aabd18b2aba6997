import csv
import itertools
import json

import numpy as np
import pytest
from matplotlib.axes import Axes

from scripts.errors import UserError
from scripts.evaluation.compare import compare, mean_scores, paired_difference, pooled
from scripts.evaluation.run_paths import run_paths
from scripts.evaluation.score import recorded
from scripts.evaluation.summary import read_scores, write_scores
from test_summary import scores


def exact_wilcoxon(differences):
    """Two-sided p of the signed-rank statistic over all 2^N signs; no ties, no zeros."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
    sums = [ranks[list(signs)].sum() for signs in itertools.product([False, True], repeat=len(ranks))]
    return min(1, 2 * np.mean([total <= observed for total in sums]))


def test_paired_difference_by_hand():
    a = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    b = np.array([0.8, 0.6, 0.4, 0.65, 0.5])
    result = paired_difference(a, b)
    assert result.difference.mean == pytest.approx(0.11)
    assert result.difference.patients == 5
    assert (result.wins, result.losses, result.ties) == (3, 1, 1)
    distances = paired_difference(a, b, less_is_better=True)
    assert (distances.wins, distances.losses, distances.ties) == (1, 3, 1)


@pytest.fixture
def run(tmp_path):
    """Write a run with these values of every metric, and give its folder."""

    def write(name, values, rule="brats", et_threshold_ml=0.0, **about):
        write_scores(tmp_path / name / "metrics.csv", scores(values), rule, et_threshold_ml=et_threshold_ml, **about)
        return str(tmp_path / name)

    return write


@pytest.fixture
def table(tmp_path):
    """What ``compare`` writes, by region and metric."""

    def compared(run_a, run_b):
        compare(run_a, run_b, output=str(tmp_path / "table.csv"))
        return read(tmp_path / "table.csv")

    return compared


def read(path):
    with open(path, newline="") as file:
        return {(row["region"], row["metric"]): row for row in csv.DictReader(file)}


def test_volume_errors_are_compared_by_size(run, table):
    row = table(run("a", [-5.0, -9.0]), run("b", [5.0, 9.0]))["WT", "volume_error_ml"]
    assert (float(row["p"]), row["wins"], row["losses"], row["ties"]) == (1, "0", "0", "2")


def test_rounding_of_decimals_does_not_change_ranks():
    """0.3 - 0.2 and 0.2 - 0.1 are equal, so p is as of tenths counted in whole numbers."""
    random = np.random.default_rng(1)
    a, b = random.integers(0, 9, (2, 30))
    assert paired_difference(a / 10, b / 10).p == paired_difference(a * 1.0, b * 1.0).p


def test_p_is_the_exact_signed_rank_test():
    random = np.random.default_rng(3)
    a, b = random.random((2, 11)).round(4)
    assert paired_difference(a, b).p == pytest.approx(exact_wilcoxon((a - b).round(6)))


@pytest.mark.parametrize("patients, warned", [(5, True), (6, False)])
def test_a_warning_says_that_p_cannot_be_small_with_so_few_patients(patients, warned, run, caplog):
    gains = 0.1 * np.arange(1, patients + 1)
    assert bool(exact_wilcoxon(gains) < 0.05) is not warned
    compare(run("a", gains), run("b", 0 * gains))
    assert (f"{patients} patient(s)" in caplog.text) is warned


def test_the_interval_is_of_paired_differences():
    random = np.random.default_rng(0)
    patients = random.random(40)  # patients differ far more than the runs
    gain = 0.02 + 0.01 * random.standard_normal(40)
    low, high = paired_difference(patients + gain, patients).difference[1:3]
    assert 0.01 < low < gain.mean() < high < 0.03


def test_the_command_compares_common_patients(run, tmp_path, command):
    a, b = run("a", [0.5, 0.7, 0.9]), run("b", [0.4, 0.8])
    result = command("scripts", "compare", a, b, "--output", tmp_path / "table.csv")
    assert result.returncode == 0, result.stderr
    assert "2 patients in both" in result.stdout and "case_2" in result.stderr
    rows = read(tmp_path / "table.csv")
    assert len(rows) == 27
    row = rows["WT", "dice"]
    assert (float(row["mean_a"]), float(row["mean_b"])) == (pytest.approx(0.6), pytest.approx(0.6))
    assert (row["wins"], row["losses"]) == ("1", "1")


def test_equal_runs_do_not_differ(run, capsys):
    same = run("a", [0.5, 0.7, 0.9])
    compare(same, same)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("WT dice"))
    assert line.split()[-5:] == ["0.000]", "1.000", "0", "0", "3"]


def test_runs_that_cannot_be_compared_are_named(run, tmp_path):
    a = run("a", [0.5, 0.7])
    for other, key in (
        (run("b", [0.5, 0.7], "exclude"), "empty_rule"),
        (run("c", [0.5], "brats", 0.1), "et_threshold"),
    ):
        with pytest.raises(UserError, match=f"{a}.*{other}.*{key}"):
            compare(a, other)
    write_scores(tmp_path / "d" / "metrics.csv", [item._replace(case="x") for item in scores([0.5])], "brats")
    with pytest.raises(UserError, match=f"{a}.*{tmp_path / 'd'}"):
        compare(a, str(tmp_path / "d"))


def test_different_truths_are_warned_of_and_a_moved_one_is_not(run, caplog):
    sums = {"case_0": 1, "case_1": 2}
    a = run("a", [0.5, 0.7], truth={"case_0": "a.nii"}, truth_checksum=sums)
    compare(a, run("moved", [0.5, 0.7], truth={"case_0": "b.nii"}, truth_checksum={**sums, "case_9": 5}))
    compare(a, run("old", [0.5, 0.7], truth={"case_0": "b.nii"}))
    assert "different truths" not in caplog.text
    compare(a, run("other", [0.5, 0.7], truth_checksum=sums | {"case_1": 3}))
    assert "different truths of 1 of 2 scans: case_1." in caplog.text


def test_a_table_without_its_record_is_compared_with_a_warning(run, tmp_path, caplog, capsys):
    a, b = run("a", [0.5, 0.7]), run("b", [0.5, 0.7], "exclude")
    (tmp_path / "b" / "metrics.json").unlink()
    compare(a, b)
    assert f"How {tmp_path / 'b' / 'metrics.csv'} count empty regions is not known" in caplog.text
    assert "B: Empty regions: how empty regions count is not known" in capsys.readouterr().out
    assert mean_scores(f"{a},{b}").empty_rule is None


def test_a_folder_may_have_a_comma_in_its_name(run, tmp_path, table):
    assert table(run("c,d", [0.5]), run("b", [0.4]))["WT", "dice"]["wins"] == "1"
    c, d = run("c", [0.5]), run("e,f/g", [0.6])
    assert run_paths(f"{c},{d}") == [c, d] and run_paths(f"{d}, {c},x,y") == [d, c, "x", "y"]
    assert mean_scores(f"{c},{d}").values["case_0", "WT"]["dice"] == pytest.approx(0.55)


def test_small_parts_that_only_one_run_keeps_are_warned_of(run, caplog):
    kept, removed, unknown = run("a", [0.5], smallest_part_ml=0), run("b", [0.5], smallest_part_ml=0.3), run("c", [0.5])
    compare(removed, run("d", [0.5], smallest_part_ml=0.3))
    assert "smallest_part_ml" not in caplog.text
    for other, known in ((kept, "0"), (unknown, "not known")):
        caplog.clear()
        compare(removed, other)
        assert f"smallest_part_ml 0.3 and {known}" in caplog.text


@pytest.mark.parametrize(
    "record, limit",
    [
        ({"settings": {"smallest_part_ml": 0.3}}, 0.3),
        ({"settings": {"smallest_part_ml": 0}}, 0),
        ({"settings": {"smallest_part_ml": 0.3}, "earlier": [{}]}, None),  # maps of other settings are there, too
        ({}, None),
    ],
)
def test_scores_of_a_prediction_know_its_small_parts_and_patients(record, limit, tmp_path):
    cases = [{"case": "a-1", "patient": "a"}, {"case": "b"}]
    (tmp_path / "inference.json").write_text(json.dumps(record | {"cases": cases}))
    assert recorded(str(tmp_path)) == {"smallest_part_ml": limit, "patient": {"a-1": "a"}}


def test_every_patients_difference_is_drawn(run, tmp_path, monkeypatch):
    points = []
    scatter = Axes.scatter
    monkeypatch.setattr(
        Axes, "scatter", lambda axis, x, y, **look: points.append([x, y]) or scatter(axis, x, y, **look)
    )
    a, b = [0.5, 0.7, 0.9], [0.4, 0.8, 0.9]
    compare(run("a", a), run("b", b), picture=str(tmp_path / "new" / "ab.png"))
    assert len(points) == 3  # regions
    assert np.array(points) == pytest.approx(np.array([[b, np.subtract(a, b)]] * 3))
    assert (tmp_path / "new" / "ab.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="picture"):
        compare(run("a", a), run("b", b), picture=str(tmp_path / "x.doc"))


def test_of_several_seeds_each_patients_mean_is_compared(run, table):
    a = ",".join([run("a0", [0.2, 0.8]), run("a1", [0.4, 0.6])])
    row = table(a, run("b", [0.1, 0.6]))["WT", "dice"]
    assert (float(row["mean_a"]), float(row["mean_b"])) == (pytest.approx(0.5), pytest.approx(0.35))
    assert (row["wins"], row["losses"], row["ties"]) == ("2", "0", "0")
    other = run("other", [0.1, 0.2, 0.3])
    with pytest.raises(UserError, match=other):
        mean_scores(f"{a},{other}")


def test_signs_of_volume_errors_do_not_cancel_over_seeds(run, table):
    seeds = ",".join([run("a0", [5.0, 2.0]), run("a1", [-5.0, -4.0])])
    row = table(seeds, run("b", [1.0, 1.0]))["WT", "volume_error_ml"]
    assert (float(row["mean_a"]), float(row["mean_b"])) == (4, 1)  # sizes 5 and 5, 2 and 4
    assert (row["wins"], row["losses"]) == ("0", "2")


def test_means_of_a_line_are_of_the_patients_known_in_both(run, table, capsys):
    row = table(run("a", [np.nan, 0.5, 0.7], "exclude"), run("b", [0.2, 0.4, 0.9], "exclude"))["ET", "nsd"]
    assert (float(row["mean_a"]), float(row["mean_b"])) == (pytest.approx(0.6), pytest.approx(0.65))
    assert float(row["difference"]) == pytest.approx(-0.05) and row["patients"] == "2"
    printed = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("ET nsd"))
    assert printed[2:5] == ["2", "0.600", "0.650"]


SCANS = ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000", "BraTS-GLI-00003-000"]


def test_scans_of_one_patient_count_as_one_patient(tmp_path, table, capsys):
    values = {"a": [0.9, 0.5, 0.6, 0.8], "b": [0.2, 0.4, 0.6, 0.9]}  # differences: (0.7 + 0.1) / 2, 0, -0.1
    for name, column in values.items():
        named = dict(zip(dict.fromkeys(item.case for item in scores(column)), SCANS))
        rows = [item._replace(case=named[item.case]) for item in scores(column)]
        write_scores(tmp_path / name / "metrics.csv", rows, "brats")
    row = table(str(tmp_path / "a"), str(tmp_path / "b"))["TC", "dice"]
    assert row["patients"] == "3" and float(row["mean_a"]) == pytest.approx((0.7 + 0.6 + 0.8) / 3)
    assert float(row["difference"]) == pytest.approx(0.1)
    assert (row["wins"], row["losses"], row["ties"]) == ("1", "1", "1")
    assert "3 patients (4 scans) in both" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["b/metrics.csv", "a/copy.csv"])
def test_neither_run_is_replaced_by_the_table(run, tmp_path, name):
    a, b = run("a", [0.5]), run("b", [0.6])
    (tmp_path / "a" / "metrics.csv").rename(tmp_path / "a" / "copy.csv")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(UserError, match="output .*would replace"):
        compare(f"{a}/copy.csv", b, output=str(tmp_path / name))
    assert (tmp_path / name).read_bytes() == before


def test_a_table_that_compare_did_not_write_stays_and_its_own_is_replaced(run, tmp_path):
    a, b, path = run("a", [0.5]), run("b", [0.6]), tmp_path / "pat.csv"
    path.write_text("name,age\nA,3\n")
    with pytest.raises(UserError, match="output .*would replace"):
        compare(a, b, output=str(path))
    assert path.read_text() == "name,age\nA,3\n"
    path.unlink()
    for _ in range(2):
        compare(a, b, output=str(path))
    assert len(read(path)) == 27


def test_the_table_is_written_before_anything_is_printed(run, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.print", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare(run("a", [0.5]), run("b", [0.6]), str(tmp_path / "ab.csv"), str(tmp_path / "ab.png"))
    assert len(read(tmp_path / "ab.csv")) == 27 and (tmp_path / "ab.png").is_file()


def test_folders_with_dollars_are_drawn_as_they_are(run, tmp_path):
    compare(run("$a_$", [0.5]), run("$x^^2$", [0.6]), picture=str(tmp_path / "ab.png"))
    assert (tmp_path / "ab.png").is_file()


def test_a_patient_in_two_folds_is_named(tmp_path):
    for fold in "01":
        write_scores(tmp_path / fold / "metrics.csv", scores([0.5]), "brats")
    with pytest.raises(UserError, match=r"case_0 is scored in two folds, the second .*1/metrics\.csv"):
        pooled([read_scores(tmp_path / fold) for fold in "01"])


def test_cases_with_an_empty_region_in_any_seed_are_listed(tmp_path):
    for number, seed in enumerate("ab"):
        write_scores(tmp_path / seed / "metrics.csv", scores([0.5, 0.5], empty=[number]), "brats")
    assert mean_scores(f"{tmp_path}/a,{tmp_path}/b").empty_cases["ET"] == ["case_0", "case_1"]
