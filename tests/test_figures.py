import pytest

from scripts.evaluation.calibration_table import calibration_error
from scripts.report.figures import history_figures


def test_calibration_error_by_hand():
    rows = [
        {"region": "WT", "bin": str(i), "voxels": str(v), "probability": str(p), "frequency": str(f)}
        for i, v, p, f in [(0, 1000, 0.0, 0.5), (3, 30, 0.35, 0.45), (9, 10, 0.95, 0.65)]
    ]
    assert calibration_error(rows, "WT") == pytest.approx((30 * 0.1 + 10 * 0.3) / 40)


def test_there_is_a_chart_for_each_group_of_columns_that_has_values():
    names = ["epoch", "loss/student", "loss/distil_flair", "loss/total", "weight/flair", "dice/flair", "lr/student"]
    rows = [dict.fromkeys(names, "1"), dict.fromkeys(names, "2") | {"dice/flair": "", "lr/student": ""}]
    charts = {chart.caption: chart.alt for chart in history_figures([row | {"dice/t2": ""} for row in rows])}
    assert len(charts) == 5 and "validation" not in " ".join(charts)
    assert charts["Terms of the loss"].endswith("at the end student 2, distil_flair 2")
    assert charts["Learning rate"].endswith("at the end student 1")
    (small,) = history_figures([{"epoch": "1", "lr/student": "9.9985e-05"}])
    assert small.alt.endswith("at the end student 9.998e-05") or small.alt.endswith("student 9.999e-05")
    assert all(chart.svg.lstrip().startswith(b"<?xml") for chart in history_figures(rows))
