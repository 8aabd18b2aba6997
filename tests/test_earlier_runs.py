"""The folder of a run holds one run, and has one writer at a time."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext, suppress

import pytest
import torch

from conftest import BUNDLE
from scripts.errors import UserError
from scripts.evaluation import earlier_evaluation
from scripts.evaluation.earlier_evaluation import check_new_evaluation, forget_evaluation
from scripts.files import sha256, write_json
from scripts.folders.earlier_scores import forget_scores
from scripts.locking import FolderLock
from scripts.training.earlier_training import check_new_run, forget_unstarted

SCORES = ["history.csv", "evaluation.json", "metrics.csv", "metrics.json", "metrics_et_cleared.csv", "mlflow.json"]


ELSEWHERE, RESUME = "give another --output_dir", "continue it with --resume True"


@pytest.mark.parametrize(
    "name, way, way_with_auto",
    [
        ("training.json", "", ""),
        ("history.csv", ELSEWHERE, ELSEWHERE),
        ("evaluation.json", ELSEWHERE, ELSEWHERE),
        ("models/checkpoint.pt", RESUME, ""),
        ("models/checkpoint_before.pt", RESUME, ""),
        ("models/model.pt", ELSEWHERE, ELSEWHERE),
    ],
)
def test_a_new_training_is_not_let_into_the_folder_of_an_earlier_one(name, way, way_with_auto, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    models = str(tmp_path / "models")
    for resume, expected in ((False, way), (True, ""), ("auto", way_with_auto)):
        with pytest.raises(UserError, match=f"^{re.escape(str(path))} .*{expected}") if expected else nullcontext():
            check_new_run(str(tmp_path), models, resume, "data")
        check_new_run(str(tmp_path), models, resume, "")  # as MONAI Label trains
    assert path.read_text() == "{}"


def test_a_checkpoint_without_a_step_keeps_nobody_out(tmp_path):
    """It is written at the start; a loss that fails in the first step would else block the folder."""
    for iteration in (0, 1):
        torch.save({"trainer": {"iteration": iteration}}, tmp_path / "checkpoint.pt")
        with pytest.raises(UserError, match="checkpoint.pt belongs to") if iteration else nullcontext():
            check_new_run(str(tmp_path / "out"), str(tmp_path), False, "data")


@pytest.mark.parametrize(
    "resume, iteration, left",
    [(False, 0, False), (False, 1, True), ("auto", 0, False), ("auto", 1, True), (True, 0, True)],
)
def test_a_new_run_keeps_nothing_of_one_without_a_step(resume, iteration, left, tmp_path):
    """Its record of MLflow would give the new run the earlier one's parameters."""
    files = [tmp_path / name for name in ("mlflow.json", "checkpoint.pt")]
    files[0].write_text("{}")
    torch.save({"trainer": {"iteration": iteration}}, files[1])
    forget_unstarted(str(tmp_path), str(tmp_path), resume)
    assert [path.is_file() for path in files] == [left, left]


def test_a_run_whose_disk_was_full_after_its_first_epoch_goes_on(tmp_path):
    """Then history.csv has an epoch, and the checkpoint is still that of the start."""
    torch.save({"trainer": {"iteration": 0}}, tmp_path / "checkpoint.pt")
    (tmp_path / "history.csv").write_text("epoch")
    check_new_run(str(tmp_path), str(tmp_path), "auto", "data")
    with pytest.raises(UserError, match="history.csv belongs to .* continue it with --resume True"):
        check_new_run(str(tmp_path), str(tmp_path), False, "data")


@pytest.mark.parametrize("weights, patient", [("other", "a"), ("same", "b"), ("same", "a")])
def test_an_evaluation_replaces_none_of_other_weights_or_patients(weights, patient, tmp_path):
    (tmp_path / "model.pt").write_text("same")
    document = {"cases": [{"case": "a"}], "weights": {"then": sha256(tmp_path / "model.pt")}, "configuration": {}}
    write_json(tmp_path / "evaluation.json", document)
    (tmp_path / "model.pt").write_text(weights)
    arguments = str(tmp_path), str(tmp_path / "model.pt"), [{"case": patient, "image": f"{patient}_t1ce.nii.gz"}]
    if (weights, patient) == ("same", "a"):
        check_new_evaluation(*arguments)
    else:
        with pytest.raises(UserError, match="other " + ("weights" if weights == "other" else "patients")):
            check_new_evaluation(*arguments)
    check_new_evaluation(*arguments, overwrite=True)


@pytest.mark.parametrize("target, fits", [("scripts.older.place.Inferer", True), ("scripts.here.Other", False)])
def test_an_evaluation_is_the_same_when_a_class_has_moved_to_another_file(target, fits, tmp_path, monkeypatch):
    (tmp_path / "model.pt").write_text("weights")
    weights = {"then": sha256(tmp_path / "model.pt")}
    configuration = {"preprocessing": {"_target_": target}}
    write_json(tmp_path / "evaluation.json", {"cases": [], "weights": weights, "configuration": configuration})
    now = {"preprocessing": {"_target_": "scripts.inference.here.Inferer"}}
    monkeypatch.setattr(earlier_evaluation, "merged_config", lambda: now)
    with nullcontext() if fits else pytest.raises(UserError, match="other preprocessing"):
        check_new_evaluation(str(tmp_path), str(tmp_path / "model.pt"), [])


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_evaluation_does_not_replace_label_maps_that_none_made(overwrite, tmp_path):
    """Such as the truth, in a folder of patients, or what predict wrote."""
    (tmp_path / "model.pt").write_text("weights")
    truth = tmp_path / "a_seg.nii.gz"
    truth.write_text("truth")
    patients = [{"case": "a", "image": "a_t1ce.nii.gz", "label": str(truth)}]
    with pytest.raises(UserError, match=r"holds 1 label map\(s\) that no evaluation there made \(a_seg.nii.gz\)"):
        check_new_evaluation(str(tmp_path), str(tmp_path / "model.pt"), patients, overwrite)
    other = {"cases": [{"case": "b"}], "weights": {}, "configuration": {}}
    write_json(tmp_path / "evaluation.json", other)
    with pytest.raises(UserError, match="holds 1 label map"):  # never the truth itself
        check_new_evaluation(str(tmp_path), str(tmp_path / "model.pt"), patients, True)
    elsewhere = [patients[0] | {"label": str(tmp_path / "model.pt")}]
    with pytest.raises(UserError, match="holds 1 label map"):  # of a patient whom the evaluation there did not have
        check_new_evaluation(str(tmp_path), str(tmp_path / "model.pt"), elsewhere, True)
    write_json(tmp_path / "evaluation.json", other | {"cases": [{"case": "a"}]})
    check_new_evaluation(str(tmp_path), str(tmp_path / "model.pt"), elsewhere, True)
    assert truth.read_text() == "truth"


def test_scores_of_another_program_stay(tmp_path):
    (tmp_path / "metrics.csv").write_text("mine")
    forget_scores(str(tmp_path))
    assert (tmp_path / "metrics.csv").read_text() == "mine"


def test_label_maps_that_are_made_again_lose_only_their_scores(tmp_path):
    for name in [*SCORES, "case_seg.nii.gz"]:
        (tmp_path / name).write_text("{}")
    forget_scores(str(tmp_path))
    left = [name for name in [*SCORES, "case_seg.nii.gz"] if (tmp_path / name).is_file()]
    assert left == ["history.csv", "evaluation.json", "mlflow.json", "case_seg.nii.gz"]


def test_an_evaluation_that_is_replaced_leaves_no_map_of_its_own(tmp_path):
    write_json(tmp_path / "evaluation.json", {"cases": [{"case": "a"}], "weights": {}, "configuration": {}})
    for name in (gone := ["a_seg.nii.gz", "a_entropy.nii.gz", "metrics.csv"]) + (
        kept := ["b_seg.nii.gz", "a_t1ce.nii.gz"]
    ):
        (tmp_path / name).touch()
    forget_evaluation(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "evaluation.json"} and gone


def test_a_record_that_names_files_elsewhere_leaves_them_there(tmp_path):
    (tmp_path / "out").mkdir()
    elsewhere = tmp_path / "P1_seg.nii.gz"
    elsewhere.write_text("truth")
    for case in (str(tmp_path / "P1"), "../P1"):
        record = {"cases": [{"case": case}], "weights": {}, "configuration": {}}
        write_json(tmp_path / "out" / "evaluation.json", record)
        forget_evaluation(str(tmp_path / "out"))
    assert elsewhere.read_text() == "truth"


@pytest.mark.parametrize(
    "page, text, kept",
    [
        ("report", '{"calibration_error": null}', False),
        ("comparison", '{"runs": ["a", "b"], "cases": []}', False),
        ("report", "another program's", True),
        ("comparison", "another program's", True),
    ],
)
def test_a_page_of_label_maps_that_are_made_again_goes_and_one_of_another_program_stays(page, text, kept, tmp_path):
    (tmp_path / "inference.json").touch()
    files = [tmp_path / f"{page}{ending}" for ending in (".json", ".html", ".csv")]
    for file in files:
        file.write_text(text)
    forget_scores(str(tmp_path))
    assert [file.exists() for file in files] == [kept] * 3


HOLD = """
import os, sys, time
from scripts.locking import FolderLock
lock = FolderLock(sys.argv[1])
if not os.fork():  # a loading process, which has let go of the lock
    print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_folder_has_one_writer_and_is_free_after_a_kill(end, tmp_path):
    """Also if a loading process outlives its killed parent."""
    folder = tmp_path / "run"
    program = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(program, cwd=BUNDLE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"{folder} is in use"):
            FolderLock(str(folder))
        for name in (".part_1_2.pt", "images/.part_3.nii.gz", ".draft_4/patient.js"):  # what it was writing
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
        getattr(process, end)()
        process.wait()
        lock = FolderLock(str(folder))
        assert {path.name for path in folder.rglob("*")} == {".lock", "images"}
        (folder / "images").rmdir()
        again = FolderLock(str(folder))  # as a notebook does after an error
        del lock
        assert subprocess.run(program, cwd=BUNDLE, capture_output=True, timeout=60).returncode == 1
        del again
        assert not list(folder.iterdir())
        FolderLock(str(folder))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_the_other_ranks_leave_the_lock_to_the_first(tmp_path):
    lock = FolderLock(str(tmp_path))
    FolderLock(str(tmp_path), rank=1)
    assert lock.hold and (tmp_path / ".lock").is_file()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of_once(number, tmp_path, monkeypatch, caplog):
    fcntl = pytest.importorskip("fcntl")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    for _ in range(3):
        FolderLock(str(tmp_path))
    assert caplog.text.count(f"{tmp_path} is on a file system without locks") == 1


HOLDS = "import sys; from scripts.locking import FolderLock; lock = FolderLock(sys.argv[1]); print(flush=True); input()"


def test_a_lock_waits_for_one_that_is_held_for_a_moment(tmp_path):
    line = [sys.executable, "-c", HOLDS, str(tmp_path)]
    other = subprocess.Popen(line, cwd=BUNDLE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "\n"
    threading.Timer(0.3, lambda: other.communicate("\n")).start()
    assert FolderLock(str(tmp_path), wait=60).hold
    other.wait(timeout=60)
