import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import ALONE, BUNDLE, METHOD, TINY, wait_for_epochs
from scripts.errors import UserError
from scripts.evaluation import cross_validate as module
from scripts.evaluation.cross_validate import check_options, collect, cross_validate, datalist_options, run_fold
from scripts.evaluation.summary import read_scores, write_scores
from test_summary import scores

SHORT = [*TINY, "--epochs", "1", "--overlap", "0"]


@pytest.fixture
def line(cohort_source, tmp_path):
    """A cross-validation of the student alone: two folds, one epoch each."""
    data = ["--dataset_dir", cohort_source / "data", "--output_dir", tmp_path / "cv", "--folds", "2"]
    return ["scripts", "cross_validate", "--config_file", str(ALONE), *data, *SHORT]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_patient_is_scored_out_of_fold_and_finished_folds_are_kept(line, tmp_path, command):
    cv = tmp_path / "cv"
    failed = command(*line, "--val_interval", "0")  # ends in the first training, and binds to nothing
    assert failed.returncode == 1 and "val_interval" in failed.stderr
    result = command(*line)
    assert result.returncode == 0, result.stderr[-3000:]
    entries = json.loads((cv / "datalist.json").read_text())["training"]
    for fold in (0, 1):
        scored = {row["case"] for row in read(cv / f"fold_{fold}" / "metrics.csv")}
        assert scored == {entry["case"] for entry in entries if entry["fold"] == fold}
    rows = read(cv / "metrics.csv")
    assert len(rows) == 18 and rows[0].keys() == read(cv / "fold_0" / "metrics.csv")[0].keys()
    means = np.mean([float(row["dice"]) for row in rows if row["region"] == "WT"])
    described = json.loads((cv / "metrics.json").read_text())
    assert described["summary"]["WT"]["dice"]["mean"] == pytest.approx(means)
    assert described["smallest_part_ml"] == 0.3 and set(described["truth"]) == {row["case"] for row in rows}
    about = json.loads((cv / "evaluation.json").read_text())
    assert len(about["cases"]) == 6 and len(about["weights"]) == 2
    voxels = [
        sum(int(row["voxels"]) for row in read(f / "calibration.csv")) for f in (cv, cv / "fold_0", cv / "fold_1")
    ]
    assert voxels[0] == voxels[1] + voxels[2]
    assert "fold_1/models/model.pt" in result.stdout

    before = (cv / "fold_0" / "models" / "model.pt").stat().st_mtime
    (cv / "fold_1" / "metrics.csv").unlink()  # as if stopped after the second training
    again = command(*line)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Fold 0 is done" in again.stderr and "Fold 1: evaluating" in again.stderr
    assert (cv / "fold_0" / "models" / "model.pt").stat().st_mtime == before
    assert read(cv / "metrics.csv") == rows

    other = command(*line, "--seed", "7")
    assert other.returncode == 1 and "seed" in other.stderr.splitlines()[-1]
    assert read(cv / "metrics.csv") == rows


@pytest.mark.slow
def test_a_training_ends_with_the_cross_validation_that_is_stopped(line, tmp_path):
    process = subprocess.Popen([sys.executable, "-m", *map(str, line), "--epochs", "500"], cwd=BUNDLE)
    wait_for_epochs(tmp_path / "cv" / "fold_0", 1, process)
    (training,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert not Path(f"/proc/{training}").exists()


@pytest.mark.parametrize(
    "options, named",
    [
        ({"folds": 4}, r"folds is 4.*datalist\.json"),
        ({"folds": 1, "datalist": ""}, "folds is 1"),
        ({"config_file": "configs/trian.yaml"}, r"configs/trian\.yaml"),
        ({"fold": 1}, "--fold "),
        ({"ckpt_dir": "x"}, "--ckpt_dir "),
        ({"method": "paper"}, "method is 'paper', but config_file names all"),
    ],
)
def test_options_that_do_not_fit_are_named(options, named, cohort_source, tmp_path, monkeypatch):
    monkeypatch.chdir(BUNDLE)
    settings = {
        "config_file": "configs/train.yaml",
        "folds": 3,
        "datalist": str(cohort_source / "datalist.json"),
    } | options
    with pytest.raises(UserError, match=named):
        cross_validate(dataset_dir=str(cohort_source / "data"), output_dir=str(tmp_path / "cv"), **settings)
    assert not (tmp_path / "cv").exists()


@pytest.fixture
def lines(monkeypatch):
    """The commands of the folds, which are not run."""
    found = []
    monkeypatch.chdir(BUNDLE)
    monkeypatch.setattr(module, "run_line", lambda line: found.append(" ".join(line)) or 0)
    return found


TOGETHER = [*ALONE, "configs/multi_gpu_train.yaml"]


def test_processes_train_together_and_one_evaluates(lines, tmp_path):
    """Else two evaluations on one machine would take the same port."""
    options = {"epochs": 1, "ddp::find_unused_parameters": True, "empty_rule": "exclude"}
    check_options(TOGETHER, None, options)
    run_fold(0, tmp_path / "fold_0", TOGETHER, options, 2)
    training, evaluation = lines
    assert "--nproc_per_node=2" in training and "multi_gpu_train.yaml" in training
    assert "--ddp::find_unused_parameters True" in training and "--empty_rule" not in training
    assert "multi_gpu_train" not in evaluation and "evaluate.yaml" in evaluation
    assert "--ddp::" not in evaluation and "--empty_rule exclude" in evaluation
    assert "--epochs 1" in training and "--epochs 1" in evaluation


@pytest.mark.parametrize("processes, changed", [(2, None), (3, None), (1, "config_file")])
def test_a_folder_of_several_processes_is_continued(processes, changed, lines, cohort_source, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "collect", lambda out, folds: sys.exit())
    datalist, data = str(cohort_source / "datalist.json"), str(cohort_source / "data")
    record = {"config_file": TOGETHER, "dataset_dir": data, "datalist": datalist}  # as of version 0.2.0
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "cross_validation.json").write_text(json.dumps(record))
    options = {"method": "student_alone", "datalist": datalist, "processes": processes}
    with pytest.raises(UserError, match=f"has {changed} ") if changed else pytest.raises(SystemExit):
        cross_validate(data, str(tmp_path), **options)
    assert len(lines) == (0 if changed else 6)


def test_a_datalist_of_an_earlier_start_is_named(lines, cohort_source, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "collect", lambda out, folds: sys.exit())
    (tmp_path / "datalist.json").write_bytes((cohort_source / "datalist.json").read_bytes())
    with caplog.at_level("INFO"), pytest.raises(SystemExit):
        cross_validate(str(cohort_source / "data"), str(tmp_path), config_file=ALONE)
    assert "datalist.json of an earlier start is used. To list" in caplog.text and len(lines) == 6


def test_an_overlay_that_changes_how_processes_train_is_named_before_they_do(tmp_path, monkeypatch):
    monkeypatch.chdir(BUNDLE)
    (tmp_path / "own.yaml").write_text("ddp::find_unused_parameters: true\n")
    with pytest.raises(UserError, match=r"own\.yaml: .*there is no ddp"):
        check_options([*TOGETHER, str(tmp_path / "own.yaml")], None, {})


@pytest.mark.parametrize(
    "files, overrides, needed",
    [
        (METHOD, {}, {"t1ce"}),
        (ALONE, {"strict": "False"}, {"t1ce"}),
        (ALONE, {"student_sequence": "flair"}, {"t1ce", "flair"}),
    ],
)
def test_a_datalist_needs_the_sequences_of_the_student(files, overrides, needed, monkeypatch):
    monkeypatch.chdir(BUNDLE)
    options = datalist_options(files, overrides)
    assert set(options["sequences"]) == needed and options["strict"] is ("strict" not in overrides)


def test_merged_scores_keep_the_checksums_of_all_folds(tmp_path):
    parts = [tmp_path / "fold_0", tmp_path / "fold_1"]
    for number, part in enumerate(parts):
        rows = [item._replace(case=f"case_{number}") for item in scores([0.5])]
        sums = {"prediction_checksum": {f"case_{number}": 3}, "truth_checksum": {f"case_{number}": number}}
        write_scores(part / "metrics.csv", rows, "brats", **sums)
    module.merge_scores(tmp_path, "metrics.csv", parts)
    merged = read_scores(tmp_path)
    assert merged.truth_checksum == {"case_0": 0, "case_1": 1}
    assert merged.prediction_checksum == {"case_0": 3, "case_1": 3}


def test_both_tables_of_all_folds_are_merged(tmp_path):
    for fold in "01":
        folder = tmp_path / f"fold_{fold}"
        for name in ("metrics.csv", "metrics_et_cleared.csv"):
            values = [score._replace(case=f"{score.case}{fold}") for score in scores([0.5])]
            write_scores(folder / name, values, "brats", et_threshold_ml=0.5 * ("et" in name))
        (folder / "evaluation.json").write_text('{"cases": [], "weights": {}}')
    collect(tmp_path, 2)
    cleared = read_scores(tmp_path / "metrics_et_cleared.csv")
    assert cleared.cases == ["case_00", "case_01"] and cleared.et_threshold_ml == 0.5
