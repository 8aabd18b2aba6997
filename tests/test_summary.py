import math
from dataclasses import replace

import numpy as np
import pytest

from scripts.errors import UserError
from scripts.evaluation.compare import paired_columns
from scripts.evaluation.metrics import COLUMNS
from scripts.evaluation.summary import (
    CaseScore,
    caption,
    cell,
    check_same_patients,
    estimate,
    read_scores,
    write_scores,
)
from scripts.labels import TABLE_ORDER


def scores(values, empty=()):
    """Every metric of case i is values[i]; NaN stays."""
    return [
        CaseScore(f"case_{i}", region, dict.fromkeys(COLUMNS, value), i in empty)
        for i, value in enumerate(values)
        for region in TABLE_ORDER
    ]


def test_a_single_patient_has_no_interval():
    assert cell("dice", estimate(np.array([0.5]))) == "0.500"
    assert cell("dice", estimate(np.array([0.5, 0.5]))) == "0.500 [0.500, 0.500]"


def test_the_interval_is_the_bootstraps():
    values = np.random.default_rng(0).beta(4, 2, 30)
    result = estimate(values)
    random = np.random.default_rng(7)
    means = random.choice(values, (20_000, 30)).mean(axis=1)
    assert result.mean == pytest.approx(values.mean())
    assert [result.low, result.high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.004)
    assert result.patients == 30


def test_few_patients():
    assert estimate(np.array([0.5, np.nan]))[:1] == (0.5,)
    assert math.isnan(estimate(np.array([0.5])).low)
    assert math.isnan(estimate(np.array([np.nan])).mean) and estimate(np.array([np.nan])).patients == 0
    assert estimate(np.full(5, 0.25))[:3] == (0.25, 0.25, 0.25)


def test_means_and_intervals_are_over_patients_not_scans(tmp_path):
    """Four scans of one patient and one of each of two others: as three patients, the first with the mean."""
    names = [*(f"UPENN-GBM-00001_{scan}" for scan in (11, 21, 31, 41)), "UPENN-GBM-00002_11", "UPENN-GBM-00003_11"]
    values = [0.1, 0.2, 0.3, np.nan, 0.6, 0.7]
    rows = [
        CaseScore(name, region, dict.fromkeys(COLUMNS, value), False)
        for name, value in zip(names, values)
        for region in TABLE_ORDER
    ]
    table = write_scores(tmp_path / "metrics.csv", rows, "exclude")
    assert table.column("WT", "dice") == pytest.approx([0.2, 0.6, 0.7])
    assert table.summary["WT"]["dice"] == pytest.approx(estimate(np.array([0.2, 0.6, 0.7])))
    assert caption(table).startswith("3 patients (6 scans), mean ")
    assert table.column("WT", "dice", []).shape == (0,)  # no case is not all cases


def test_the_patient_is_the_datalists_where_the_name_does_not_tell(tmp_path):
    column = {"A-1": 0.1, "A-2": 0.3, "B-1": 0.6}
    rows = [CaseScore(n, r, dict.fromkeys(COLUMNS, v), False) for n, v in column.items() for r in TABLE_ORDER]
    write_scores(tmp_path / "metrics.csv", rows, "brats", patient={"A-1": "A", "A-2": "A"})
    table = read_scores(tmp_path)
    assert table.column("WT", "dice") == pytest.approx([0.2, 0.6])
    assert caption(table).startswith("2 patients (3 scans), mean ")
    assert paired_columns(table, table, table.cases, "ET", "dice")[0] == pytest.approx([0.2, 0.6])


def test_scores_are_read_back_as_written(tmp_path):
    written = write_scores(
        tmp_path / "metrics.csv", scores([0.25, np.nan, 0.75], empty=[1]), "exclude", et_threshold_ml=0.5
    )
    read = read_scores(tmp_path)
    assert read.empty_rule == "exclude" and read.et_threshold_ml == 0.5
    assert read.empty_cases == written.empty_cases == {region: ["case_1"] for region in TABLE_ORDER}
    assert read.summary["TC"]["nsd"][::3] == (0.5, 2)
    assert "WT 1, TC 1, ET 1" in caption(read)
    assert "0.5 ml" in caption(read)


def test_without_its_record_the_rule_for_empty_regions_is_not_known(tmp_path):
    write_scores(tmp_path / "metrics.csv", scores([0.25, 0.75], empty=[1]), "exclude")
    (tmp_path / "metrics.json").unlink()
    table = read_scores(tmp_path)
    assert table.empty_rule is None and "not known" in caption(table)
    assert "Cases with an empty region" not in caption(table) and "brats" not in caption(table)
    write_scores(tmp_path / "again.csv", scores([0.25]), table.empty_rule)
    assert read_scores(tmp_path / "again.csv").empty_rule is None


def test_a_table_of_another_tool_is_an_error(tmp_path):
    (tmp_path / "metrics.csv").write_text("case,region,dice\na,WT,0.5\n")
    with pytest.raises(UserError, match=r"metrics\.csv .*'case', 'region', 'dice'"):
        read_scores(tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        read_scores(tmp_path / "nowhere")


def test_a_changed_copy_has_its_own_summary(tmp_path):
    table = write_scores(tmp_path / "metrics.csv", scores([0.25, 0.75]), "brats")
    changed = replace(table, values={key: dict.fromkeys(COLUMNS, 1.0) for key in table.values})
    assert table.summary["WT"]["dice"].mean == 0.5 and changed.summary["WT"]["dice"].mean == 1


TABLES = {
    "not a number": lambda text: text.replace("0.250000", "high", 1),
    "a region is missing": lambda text: text.replace("case_0,ET", "case_0,XX"),
    "a row twice": lambda text: text + text.splitlines()[1] + "\n",
    "cut short": lambda text: text[: text.rindex("case_1,ET")],
    "no row": lambda text: text.splitlines()[0] + "\n",
    "empty": lambda text: "",
    "bytes": lambda text: "\udcff",
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_that_was_spoilt_is_named(kind, tmp_path):
    write_scores(tmp_path / "metrics.csv", scores([0.25, 0.75]), "brats")
    text = TABLES[kind]((tmp_path / "metrics.csv").read_text())
    (tmp_path / "metrics.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"metrics\.csv"):
        read_scores(tmp_path)


@pytest.mark.parametrize("text", ["", "null", "[1]", '{"empty_rule": "x"}', '{"cases_with_an_empty_region": [1]}'])
def test_the_record_beside_a_table_must_have_its_form(text, tmp_path):
    write_scores(tmp_path / "metrics.csv", scores([0.25]), "brats")
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.json"):
        read_scores(tmp_path)


def test_scores_of_an_evaluation_are_of_its_patients(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"cases": [{"case": "a"}, {"case": "b"}]}')
    for path in (tmp_path / "metrics.csv", tmp_path / "other.csv"):
        check_same_patients(path, ["b", "a"])
    check_same_patients(tmp_path / "other.csv", ["c"])
    with pytest.raises(UserError, match=r"metrics\.csv.*evaluation\.json.* c"):
        check_same_patients(tmp_path / "metrics.csv", ["a", "b", "c"])
