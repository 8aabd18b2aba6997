"""The commands of the README, run as a user runs them."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import run as bundle_run
from monai.metrics import DiceMetric

from conftest import ALONE, BUNDLE, METHOD, TINY, TINY_TEACHERS, bare_errors, real_data
from gates import gate, wait_at
from scripts.command import command_line_options
from scripts.errors import UserError
from scripts.labels import REGIONS
from scripts.locking import FolderLock
from scripts.method.resunet import ResUNet

SOFT = "soft_target"
CHECKPOINTS = ["checkpoint.pt", "checkpoint_before.pt", "model.pt"]
PAPER, FOUR = "configs/paper.yaml", [METHOD[0], "configs/four_sequence_teacher.yaml"]
TRAIN = ["monai.bundle", "run", "training", "--config_file", str(METHOD)]
WORKERS = ["--num_workers", "2"]  # loading processes, as by default on more than two cores
STUDENT = ["--student_widths", "[4,4,8,8]", "--window_size", "[16,16,16]", "--spacing", "$None"]


def outputs(folder):
    return ["--output_dir", str(folder), "--ckpt_dir", str(folder / "models")]


def student_of(folder):
    weights = torch.load(folder / "models" / "checkpoint.pt", weights_only=True)["distillation"]
    return {name[8:]: value for name, value in weights.items() if name.startswith("student.")}


@pytest.fixture(scope="module")
def options(cohort_source):
    data = ["--dataset_dir", str(cohort_source / "data"), "--datalist", str(cohort_source / "datalist.json")]
    return [*TINY, *data, "--epochs", "3", "--val_interval", "1"]


@pytest.fixture(scope="module")
def method(options):
    """Options of the tiny run with teachers as small as the student."""
    return [*options, *TINY_TEACHERS]


@pytest.fixture(scope="module")
def trained(method, tmp_path_factory):
    """An uninterrupted run of three epochs."""
    folder = tmp_path_factory.mktemp("trained")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", *TRAIN, *method, *WORKERS, *outputs(folder)]
    result = subprocess.run(line, cwd=BUNDLE, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    (folder / "log").write_text(result.stdout + result.stderr)
    return folder


def test_training_keeps_the_best_student_and_logs_every_term_by_name(trained):
    assert sorted(path.name for path in (trained / "models").iterdir()) == CHECKPOINTS
    with open(trained / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    terms = [name for name in rows[0] if name.startswith("loss/") and name != "loss/total"]
    assert {"loss/student", "loss/teacher_flair", "loss/distil_t1", "loss/fusion_1", "loss/distil_fusion_1"} <= set(
        terms
    )
    for row in rows:
        assert sum(float(row[name]) for name in terms) == pytest.approx(float(row["loss/total"]), rel=1e-5)
        assert sum(float(row[f"weight/{name}"]) for name in ("flair", "t2", "t1")) == pytest.approx(0.15)
        assert 0 <= float(row["validation/val_mean_dice"]) <= 1
    assert float(rows[0]["loss/distil_flair"]) == 0 < float(rows[1]["loss/distil_flair"])
    assert float(rows[2]["loss/total"]) < float(rows[0]["loss/total"])
    log = (trained / "log").read_text()
    assert [line for line in log.splitlines() if "epoch 3/3, loss" in line and "Dice WT" in line]


def test_a_killed_run_resumes_to_the_same_student_bit_for_bit(trained, method, tmp_path, command):
    files = [*METHOD, str(gate(tmp_path / "gate", step=5))]  # of six, in the third epoch
    line = [sys.executable, "-m", *TRAIN[:-1], str(files), *method, *WORKERS, *outputs(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, cwd=BUNDLE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_at(tmp_path / "gate", process)
    process.kill()
    process.wait()
    assert torch.load(tmp_path / "models" / "checkpoint.pt", weights_only=True)["trainer"]["iteration"] == 4
    result = command(*TRAIN, *method, *WORKERS, *outputs(tmp_path), "--resume", "True")
    assert result.returncode == 0, result.stderr[-3000:]
    expected = student_of(trained)
    assert all(torch.equal(value, expected[name]) for name, value in student_of(tmp_path).items())
    with open(tmp_path / "history.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    best = [torch.load(run / "models" / "model.pt", weights_only=True) for run in (trained, tmp_path)]
    assert all(torch.equal(value, best[1][name]) for name, value in best[0].items())


@pytest.mark.slow
def test_a_run_that_a_signal_stops_resumes_to_the_same_student(trained, method, tmp_path, command):
    """As ``python -m scripts train`` passes the signal on; the terminal sends Ctrl-C to both."""
    keys = [*method, *WORKERS, *outputs(tmp_path)]
    line = [sys.executable, "-m", "scripts", "train", *keys, "--method", str(gate(tmp_path / "gate", step=5))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, cwd=BUNDLE, env=environment, stderr=subprocess.PIPE, text=True)
    wait_at(tmp_path / "gate", process)
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in log
    assert torch.load(tmp_path / "models" / "checkpoint.pt", weights_only=True)["trainer"]["iteration"] == 5
    assert not list(tmp_path.rglob(".part_*")) and not (tmp_path / ".lock").exists()
    result = command("scripts", "train", *keys, "--resume", "True")
    assert result.returncode == 0, result.stderr[-3000:]
    expected = student_of(trained)
    assert all(torch.equal(value, expected[name]) for name, value in student_of(tmp_path).items())


def test_a_folder_of_any_name_is_a_folder_on_monais_own_line(options, tmp_path, command, cohort_source, monkeypatch):
    name = "1e3"
    (tmp_path / name).symlink_to(cohort_source / "data")
    line = ["monai.bundle", "run", "training", "--config_file", str([str(BUNDLE / file) for file in ALONE])]
    monkeypatch.setenv("PYTHONPATH", str(BUNDLE))
    result = command(*line, *options, *outputs(tmp_path / "out"), "--dataset_dir", name, "--epochs", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_home_is_a_home_in_every_key_of_the_config(options, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(trained))
    run_here(options, tmp_path, base=ALONE, epochs=1, pretrained="~/models/model.pt", ckpt_dir=str(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["configuration"]["pretrained"] == str(trained / "models" / "model.pt")


def test_a_second_training_leaves_the_first_one_alone(trained, method, tmp_path):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as error:
        run_here(method, tmp_path, output_dir=str(trained), ckpt_dir=str(trained / "models"))
    assert all(word in str(error.value) for word in (str(trained), "--resume True", "--output_dir"))
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_two_trainings_do_not_share_a_folder_of_checkpoints(method, tmp_path, command):
    shared, out = tmp_path / "shared", tmp_path / "out"
    lock = FolderLock(str(shared))  # as the other training has it
    result = command(*TRAIN, *method, "--output_dir", out, "--ckpt_dir", shared)
    assert result.returncode == 1 and f"{shared} is in use" in result.stderr and "Traceback" not in result.stderr
    assert lock.hold and [path.name for path in shared.iterdir()] == [".lock"] and not list(out.iterdir())


@pytest.mark.slow
def test_one_of_two_predictions_into_one_folder_waits_for_its_turn(trained, tmp_path, command, cohort_source):
    out, weights = tmp_path / "out", trained / "models" / "model.pt"
    line = ["monai.bundle", "run", "evaluating", "--config_file", "configs/inference.yaml", "--output_dir", out]
    line += ["--ckpt_path", weights, *STUDENT]
    first, second = (cohort_source / "data" / f"phantom_000{n}" / f"phantom_000{n}_t1ce.nii.gz" for n in (0, 1))
    lock = FolderLock(str(out))
    result = command(*line, "--dataset_dir", first)
    assert result.returncode == 1 and f"{out} is in use" in result.stderr and "Traceback" not in result.stderr
    assert [path.name for path in out.iterdir()] == [".lock"]
    del lock
    for image in (first, second):
        result = command(*line, "--dataset_dir", image)
        assert result.returncode == 0, result.stderr[-2000:]
    record = json.loads((out / "inference.json").read_text())
    assert {case["case"] for case in record["cases"]} == {"phantom_0000", "phantom_0001"}


def test_a_full_disk_stops_a_prediction_and_it_goes_on_after_room_was_made(
    trained, tmp_path, cohort_source, small_files
):
    out = tmp_path / "out"
    settings = {key[2:]: yaml.safe_load(value) for key, value in zip(STUDENT[::2], STUDENT[1::2])}
    settings |= {"dataset_dir": str(cohort_source / "data"), "output_dir": str(out), "bundle_root": str(BUNDLE)}
    settings |= {"ckpt_path": str(trained / "models" / "model.pt"), "uncertainty": True, "logging_file": False}
    config = str(BUNDLE / "configs/inference.yaml")
    with small_files(40_000), pytest.raises(UserError) as error, bare_errors():
        bundle_run("evaluating", config_file=config, **settings)
    assert os.strerror(errno.EFBIG) in str(error.value) and "phantom_0000_" in str(error.value)
    assert "phantom_0001" not in str(error.value)
    assert not [path for path in out.iterdir() if path.name.startswith(".part_")]
    bundle_run("evaluating", config_file=config, **settings)
    assert len(list(out.glob("*_seg.nii.gz"))) == 6


def test_evaluation_from_the_disk_cache_twice_gives_the_same_scores(trained, options, tmp_path):
    scores = []
    for run in ("first", "second"):
        changed = {"ckpt_dir": str(trained / "models"), "cache": "disk", "cache_dir": str(tmp_path / "cache")}
        run_here(options, tmp_path / run, ["evaluate"], "evaluating", **changed)
        scores.append((tmp_path / run / "out" / "metrics.csv").read_text())
    assert scores[0] == scores[1]
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 2  # validation patients
    run_here(options, tmp_path / "first", ["evaluate"], "evaluating", **changed)  # the same again
    with pytest.raises(UserError) as error, bare_errors():
        run_here(options, tmp_path / "first", ["evaluate"], "evaluating", **changed, overlap=0.25)
    assert all(word in str(error.value) for word in ("evaluation.json", "other overlap", "--output_dir", "--overwrite"))
    assert (tmp_path / "first" / "out" / "metrics.csv").read_text() == scores[0]
    run_here(options, tmp_path / "first", ["evaluate"], "evaluating", **changed, overlap=0.25, overwrite=True)
    assert json.loads((tmp_path / "first" / "out" / "evaluation.json").read_text())["configuration"]["overlap"] == 0.25


def test_a_resumed_run_may_not_learn_from_another_loss(trained, method, tmp_path):
    changed = {"resume": True, f"{SOFT}::temperature": 9}
    with pytest.raises(UserError, match=f"{SOFT}::temperature is 9, but.*4.0"):
        run_here(method, tmp_path, output_dir=str(trained), ckpt_dir=str(trained / "models"), **changed)


def test_a_value_that_a_loss_refuses_ends_the_command_in_its_sentence(options, tmp_path, command):
    result = command(*TRAIN, *options, *outputs(tmp_path / "out"), "--confidence::total", "-1")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    reason = "cannot be built: ValueError: total and initial must be at least 0, got -1 and 0.1"
    assert f"confidence (scripts.method.confidence.TeacherConfidence) {reason}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_evaluation_scores_its_own_label_maps(trained, options, tmp_path, command, cohort_source):
    result = command("scripts", "evaluate", *options, "--output_dir", tmp_path, "--ckpt_dir", trained / "models")
    assert result.returncode == 0, result.stderr[-3000:]
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = {(row["case"], row["region"]): float(row["dice"]) for row in csv.DictReader(file)}
    cases = sorted({case for case, _ in rows})
    assert len(cases) == 2
    metric = DiceMetric(ignore_empty=False)
    for case in cases:
        truth = nib.load(cohort_source / "data" / case / f"{case}_seg.nii.gz")
        predicted = nib.load(tmp_path / f"{case}_seg.nii.gz")
        assert predicted.shape == truth.shape
        assert np.array_equal(predicted.affine, truth.affine)
        for region, classes in REGIONS:
            masks = [
                np.isin(np.asarray(image.dataobj), [4 if c == 3 else c for c in classes])
                for image in (predicted, truth)
            ]
            expected = metric(*(torch.from_numpy(mask)[None, None].float() for mask in masks)).item()
            assert rows[case, region] == pytest.approx(expected, abs=1e-5)

    result = command("scripts", "report", "--run", tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    about = json.loads((tmp_path / "report.json").read_text())["evaluation"]
    assert about["seed"] == 0 and len(about["data"]["sha256"]) == 64 and len(about["weights"]) == 1
    assert "--overlap 0.5" in about["command"] and about["configuration"]["window_size"] == [16, 16, 16]
    assert about["versions"]["monai"] == monai.__version__ and about["label_values"] == [0, 1, 2, 4]
    assert "Uncertainty of phantom_" in (tmp_path / "report.html").read_text()


def test_evaluation_takes_the_student_to_the_device(trained, options, tmp_path, monkeypatch):
    """As MONAI's evaluator does not: without it evaluation ends on a GPU, where volumes are and the weights are not."""
    moved, to = [], ResUNet.to
    monkeypatch.setattr(ResUNet, "to", lambda self, *where: moved.append(where) or to(self, *where))
    run_here(options, tmp_path, ["evaluate"], "evaluating", ckpt_dir=str(trained / "models"), device="cpu")
    assert moved == [("cpu",)]


@pytest.fixture
def oblique(tmp_path, cohort_source):
    """A T1ce volume in another orientation, with oblique axes and anisotropic voxels, under a plain name."""
    source = nib.load(cohort_source / "data" / "phantom_0000" / "phantom_0000_t1ce.nii.gz")
    voxels = np.asarray(source.dataobj)[:, :, :27].transpose(2, 0, 1)[::-1]
    cos, sin = np.cos(0.3), np.sin(0.3)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 3.1, 0], [0, 0, -2.9], [4.7, 0, 0]])
    affine[:3, 3] = [-71.3, 55.123, 8.7]
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), affine), tmp_path / "in" / "patient seven.nii.gz")
    return tmp_path / "in"


@pytest.mark.parametrize("extra, et", [([], 4), (["--et_label", "3", "--spacing", "[6,6,6]"], 3)])
def test_inference_writes_label_maps_on_the_inputs_exact_grid(trained, tmp_path, command, oblique, extra, et):
    result = command(
        "monai.bundle", "run", "evaluating", "--config_file", "configs/inference.yaml", "--dataset_dir", oblique,
        "--output_dir", tmp_path / "out", "--ckpt_path", trained / "models" / "model.pt", *STUDENT, *extra,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    (written,) = (tmp_path / "out").glob("*.nii.gz")
    assert written.name == "patient seven_seg.nii.gz"
    image, label = nib.load(oblique / "patient seven.nii.gz"), nib.load(written)
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-5)
    assert label.header.get_zooms() == pytest.approx(image.header.get_zooms(), abs=1e-5)
    assert nib.aff2axcodes(label.affine) == nib.aff2axcodes(image.affine)
    assert label.get_data_dtype() == np.uint8
    assert set(np.unique(label.dataobj)) <= {0, 1, 2, et}


def test_inference_from_any_folder_without_an_id(trained, tmp_path, command, cohort_source):
    result = command(
        "monai.bundle", "run", "--config_file", BUNDLE / "configs" / "inference.yaml", "--bundle_root", BUNDLE,
        "--dataset_dir", cohort_source / "data", "--output_dir", tmp_path / "out",
        "--ckpt_path", trained / "models" / "model.pt", *STUDENT, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(list((tmp_path / "out").glob("phantom_000?_seg.nii.gz"))) == 6


@pytest.mark.slow
def test_two_processes_train_a_four_sequence_teacher_into_one_history(options, tmp_path, command):
    files = str([*FOUR, "configs/multi_gpu_train.yaml"])
    result = command(
        "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run", "training",
        "--config_file", files, *options, *outputs(tmp_path), "--epochs", "2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == CHECKPOINTS
    assert float(rows[1]["weight/all"]) == pytest.approx(0.2)


def run_here(options, tmp_path, overlays=(), run_id="training", base=METHOD, **changed):
    """A run in this process, with the options of the tiny run and some changed."""
    settings = {key: yaml.safe_load(value) for key, value in command_line_options(options).items()}
    settings |= {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path / "out"), **changed}
    files = [*base, *(f"configs/{name}.yaml" for name in overlays)]
    with bare_errors():
        bundle_run(run_id, config_file=[str(BUNDLE / file) for file in files], **settings)


@pytest.mark.parametrize("workflow", ["train", "evaluate", "inference"])
def test_every_workflow_refuses_processes_that_know_nothing_of_each_other(
    workflow, options, trained, cohort_source, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does
    with pytest.raises(UserError, match="torchrun started 2 processes"), bare_errors():
        if workflow == "train":
            run_here(options, tmp_path)
        elif workflow == "evaluate":
            run_here(options, tmp_path, ["evaluate"], "evaluating", ckpt_dir=str(trained / "models"))
        else:
            folders = {"dataset_dir": str(cohort_source / "data"), "output_dir": str(tmp_path / "out")}
            bundle_run(
                "evaluating", config_file=str(BUNDLE / "configs/inference.yaml"), bundle_root=str(BUNDLE), **folders
            )
    assert not list((tmp_path / "out").glob("*"))


VARIANTS = {
    "CBAM": ([], {"network_def::attention": "cbam"}),
    "T1 student": ([], {"student_sequence": "t1"}),
    "fixed weights": ([], {"confidence::dynamic": False, "confidence::initial": 0.05}),
    "no fusion": ([], {"fusion": "$None"}),
    "two levels": (["two_levels"], {}),
    "FLAIR network": (["student_alone"], {"student_sequence": "flair"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_the_readme_and_docs_train(variant, options, method, tmp_path):
    overlays, changed = VARIANTS[variant]
    alone = "student_alone" in overlays
    run_here(options if alone else method, tmp_path, overlays, epochs=2, cache="disk", **changed)
    assert (tmp_path / "out" / "model.pt").is_file()
    with open(tmp_path / "out" / "history.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert ("loss/distil_fusion_1" in last) == ("fusion" not in changed and not alone)
    assert ("loss/distil_fusion_2" in last) == (variant == "two levels")
    if variant == "fixed weights":
        assert [float(last[f"weight/{name}"]) for name in ("flair", "t2", "t1")] == pytest.approx([0.05] * 3)


def test_a_student_is_fed_each_other_sequence(trained, options, tmp_path):
    """The hetero-modal test: the T1ce student's weights, another sequence's images."""
    maps = {}
    for sequence in ("t1ce", "flair"):
        folder = tmp_path / sequence
        changed = {"output_dir": str(folder), "ckpt_dir": str(trained / "models"), "student_sequence": sequence}
        run_here(options, tmp_path, ["evaluate"], "evaluating", **changed)
        about = json.loads((folder / "evaluation.json").read_text())
        assert all(case["image"].endswith(f"_{sequence}.nii.gz") for case in about["cases"])
        maps[sequence] = np.stack([nib.load(case["prediction"]).get_fdata() for case in about["cases"]])
        assert len(list(csv.DictReader((folder / "metrics.csv").open()))) == 6
    assert (maps["t1ce"] != maps["flair"]).any()


def test_a_frozen_teacher_is_read_from_its_checkpoint_and_kept(trained, method, tmp_path):
    weights = torch.load(trained / "models" / "checkpoint.pt", weights_only=True)["distillation"]
    prefix = "teachers.flair.network."
    flair = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    torch.save(flair, tmp_path / "flair.pt")
    frozen = {"teachers::flair::frozen": True, "teachers::flair::checkpoint": str(tmp_path / "flair.pt")}
    run_here(method, tmp_path, epochs=1, **frozen)
    after = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["distillation"]
    assert all(torch.equal(after[prefix + name], value) for name, value in flair.items())
    assert not torch.equal(after["teachers.t2.network.head.weight"], weights["teachers.t2.network.head.weight"])


def test_the_four_sequence_teacher_learns_or_is_kept(options, tmp_path):
    teacher, online, kept = (tmp_path / name for name in ("teacher", "online", "kept"))
    small = {"teachers::all::network::widths": [4, 4, 8, 8]}
    run_here(options, teacher, ["four_sequences"], base=ALONE, epochs=1)
    weights = torch.load(teacher / "out" / "model.pt", weights_only=True)
    assert weights["stem.conv1.weight"].shape[1] == 4
    run_here(options, online, base=FOUR, epochs=2, **small)
    with open(online / "out" / "history.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert float(second["loss/teacher_all"]) < float(first["loss/teacher_all"])
    assert float(second["weight/all"]) == pytest.approx(0.2)
    checkpoint = {"teachers::all::checkpoint": str(teacher / "out" / "model.pt"), "teachers::all::frozen": True}
    run_here(
        options, kept, base=FOUR, epochs=1, **small, **checkpoint, **{"teachers::all::network::deep_supervision": 1}
    )
    after = torch.load(kept / "out" / "checkpoint.pt", weights_only=True)["distillation"]
    assert all(torch.equal(after[f"teachers.all.network.{name}"], value) for name, value in weights.items())


def test_a_student_begins_with_the_weights_that_it_is_given(trained, options, tmp_path):
    weights = str(trained / "models" / "model.pt")
    changed = {"epochs": 1, "learning_rate": 0.0, "pretrained": weights}
    run_here(options, tmp_path, base=ALONE, **changed)
    before, after = (torch.load(path, weights_only=True) for path in (weights, tmp_path / "out" / "model.pt"))
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with pytest.raises(UserError, match=r"checkpoint nowhere\.pt does not exist"):
        run_here(options, tmp_path / "no", base=ALONE, pretrained="nowhere.pt")
    assert not (tmp_path / "no" / "out").exists()


def test_the_papers_protocol_is_evaluated_on_the_original_grid(method, tmp_path, cohort_source):
    run_here(method, tmp_path, ["paper"], epochs=1)
    run_here(method, tmp_path, ["paper", "evaluate"], "evaluating")
    written = sorted((tmp_path / "out").glob("*_seg.nii.gz"))
    assert len(written) == 2
    for path in written:
        case = path.name.removesuffix("_seg.nii.gz")
        truth = nib.load(cohort_source / "data" / case / path.name)
        assert nib.load(path).shape == truth.shape
        assert np.array_equal(nib.load(path).affine, truth.affine)


RESPONSE = {
    "_target_": "scripts.variants.pseudo_labels.OneTeacherResponse", "soft_target": "@soft_target", "teacher": "stord",
    "weight": 0.1,
}  # fmt: skip
MISTAKES = {
    "no data": ({"dataset_dir": "nowhere"}, "dataset_dir is 'nowhere'"),
    "no datalist": ({"datalist": "none.json"}, "datalist none.json cannot be read"),
    "fold": ({"fold": 9}, r"fold is 9, expected one of \[0, 1, 2\]"),
    "resume": ({"resume": True}, r"checkpoint\.pt does not exist"),
    "no validation": ({"val_interval": 9}, "val_interval is 9, expected at most epochs, 3: else no student is saved"),
    "teacher": ({"loss::terms::soft": RESPONSE}, r"loss::terms::soft::teacher is 'stord', expected one of \["),
    "device": ({"device": "cuda:99"}, "device is 'cuda:99', expected one of this machine"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_a_sentence_before_work_starts(mistake, options, tmp_path):
    changed, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        run_here(options, tmp_path, **changed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["pretrained", "teachers::flair::checkpoint"])
def test_weights_are_not_read_from_the_file_that_the_training_writes(key, trained, method, tmp_path):
    weights = trained / "models" / "model.pt"
    fitting = {"teachers::flair::network::deep_supervision": 1, "fusion": "$None"}
    before = weights.read_bytes()
    with pytest.raises(UserError, match=f"{key} is .*model.pt, which this training would overwrite"):
        changed = {"ckpt_dir": str(weights.parent / ".." / "models"), key: str(weights), "resume": True}
        run_here(method, tmp_path, **changed, **fitting)
    assert weights.read_bytes() == before


def test_weights_of_other_widths_leave_no_trace_of_an_evaluation(options, trained, tmp_path):
    weights = str(trained / "models" / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt does not fit ResUNet .*student_widths"):
        run_here(options, tmp_path, ["evaluate"], "evaluating", ckpt_path=weights, student_widths=[8, 8, 8, 8])
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.slow
def test_the_shipped_weights_find_tumours_of_real_patients_on_their_grid(tmp_path, command):
    """Three of the patients that they were trained on, so this is no measurement."""
    folder = real_data("brats_1mm")
    result = command(
        "monai.bundle", "run", "evaluating", "--config_file", "configs/inference.yaml", "--dataset_dir", folder,
        "--output_dir", tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    metric = DiceMetric()
    for case in sorted(folder.iterdir()):
        image, label = nib.load(case / f"{case.name}_t1ce.nii.gz"), nib.load(tmp_path / f"{case.name}_seg.nii.gz")
        assert label.shape == image.shape == (240, 240, 155)
        assert np.array_equal(label.affine, image.affine)
        truth = nib.load(case / f"{case.name}_seg.nii.gz")
        masks = [torch.from_numpy(np.asarray(volume.dataobj) > 0)[None, None].float() for volume in (label, truth)]
        assert metric(*masks).item() > 0.5
