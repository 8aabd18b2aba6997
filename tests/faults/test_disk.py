"""A disk that is full or read-only (a real one, mounted for it): one sentence, nothing half-written, nothing lost."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from conftest import METHOD
from faults.disks import disk
from faults.runs import Training, data

pytestmark = pytest.mark.slow
STUDENT = ["--student_widths", "[4,4,8,8]", "--window_size", "[16,16,16]", "--spacing", "$None", "--mirror", "False"]
WRITTEN = {  # by command: what it writes
    "predict": ["inference.json", "*_seg.nii.gz", "*_entropy.nii.gz"],
    "evaluate": ["evaluation.json", "*_seg.nii.gz", "*_entropy.nii.gz", "metrics.*", "calibration.csv"],
    "score": ["metrics.*"],
    "report": ["report.*"],
    "curves": ["picture.png"],
    "overview": ["picture.png"],
    "compare": ["picture.png"],
}


def line_of(name, small, weights, evaluated, out):
    """The words of a command that reads a training's weights or an evaluation's folder, and writes to ``out``."""
    config = ["--ckpt_path", weights, *STUDENT, "--output_dir", out, "--uncertainty", "True"]
    monai = ["monai.bundle", "run", "evaluating", "--config_file"]
    return {
        "predict": [*monai, "configs/inference.yaml", "--dataset_dir", small / "data", *config],
        "evaluate": [*monai, [*METHOD, "configs/evaluate.yaml"], *data(small), *config, "--fold", "$None"],
        "score": ["scripts", "score", "--pred", evaluated, "--truth", small / "data", "--output", out / "metrics.csv"],
        "report": ["scripts", "report", "--run", evaluated, "--output", out / "report.html"],
        "curves": ["scripts", "curves", "--run", evaluated, "--picture", out / "picture.png"],
        "overview": [
            "scripts", "overview", "--runs", f"a={evaluated},b={evaluated}",
            "--picture", out / "picture.png",
        ],
        "compare": ["scripts", "compare", "--run_a", evaluated, "--run_b", evaluated, "--picture", out / "picture.png"],
    }[name]  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(commands, small, references, tmp_path_factory):
    """The folder of a training and its evaluation, and what each command writes with room."""
    folder = tmp_path_factory.mktemp("evaluated")
    run = folder / "run"
    shutil.copytree(references["student_alone"].folder, run)
    weights = run / "models" / "model.pt"
    for name in ("evaluate", *WRITTEN):
        out = folder / name
        command = commands.start(folder / f"{name}.log", *line_of(name, small, weights, run, out))
        assert command.wait() == 0, command.text()[-3000:]
        if name == "evaluate":
            shutil.copytree(out, run, dirs_exist_ok=True)
    return folder


def check_sentence(command, number, folder):
    """One sentence at the end that names a file of the folder and what the system said; no traceback."""
    code, text = command.wait(), command.text()
    assert 0 < code < 128, (code, text[-3000:])
    last = [line for line in text.splitlines() if line.strip()][-1]
    assert os.strerror(number) in last and str(folder) in last and "Traceback" not in text, text[-3000:]


def check_whole(folder):
    """Every file can be read to its end, and no hidden file is there."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        assert not path.name.startswith("."), path
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".csv":
            with open(path, newline="") as file:
                assert all(None not in row.values() for row in csv.DictReader(file)), path
        elif path.suffix == ".gz":
            nib.load(path).get_fdata()
        else:
            assert path.read_bytes().rstrip().endswith((b"</html>", b"IEND\xaeB`\x82")), path


def check_outputs(name, out, reference):
    """The command wrote what it writes with room."""
    for pattern in WRITTEN[name]:
        names = sorted(path.name for path in reference.glob(pattern))
        assert sorted(path.name for path in out.glob(pattern)) == names and names, pattern
        for file in names:
            if file.endswith(".gz"):
                np.testing.assert_array_equal(*(nib.load(part / file).get_fdata() for part in (out, reference)))
            elif file.endswith((".csv", ".png")):
                assert (out / file).read_bytes() == (reference / file).read_bytes(), file


def test_a_training_goes_on_after_a_disk_was_full(commands, small, references, tmp_path, trials, count):
    def trial(index):
        method, chance = ("student_alone", "mtcm_kd")[index % 2], random.Random(index)
        with disk(tmp_path / f"full_{index}") as room:
            training = Training(commands, small, room.folder / "run", method)
            log = tmp_path / f"full_{index}.log"
            if index % 3 == 0:  # full from the start, but for a part of what is needed
                needed = sum(path.stat().st_size for path in references[method].files())
                room.fill(left=int(chance.uniform(0, 0.9) * needed))
                command = training.start("--resume", "auto", log=log)
            else:  # full in the middle
                command = training.start("--resume", "auto", log=log)
                epoch = chance.randrange(1, 4)
                command.until(lambda: f"epoch {epoch}/" in command.text() or command.ended())
                room.fill()
            check_sentence(command, errno.ENOSPC, room.folder)
            check_whole(training.folder)
            room.free()
            training.succeed("--resume", "auto", log=log)
            training.check_same(references[method])

    trials("a full disk during a training, then room", count(2, 20), trial)


def test_a_training_goes_on_after_a_folder_was_read_only(commands, small, references, tmp_path, trials, count):
    def trial(index):
        method, chance = ("student_alone", "mtcm_kd")[index % 2], random.Random(index)
        with disk(tmp_path / f"closed_{index}") as room:
            training = Training(commands, small, room.folder / "run", method)
            log = tmp_path / f"closed_{index}.log"
            if index % 3 == 0:
                room.forbid()
                command = training.start("--resume", "auto", log=log)
            else:
                command = training.start("--resume", "auto", log=log)
                epoch = chance.randrange(1, 4)
                command.until(lambda: f"epoch {epoch}/" in command.text() or command.ended())
                room.forbid()
            check_sentence(command, errno.EROFS, room.folder)
            room.free()
            training.succeed("--resume", "auto", log=log)
            check_whole(training.folder)
            training.check_same(references[method])

    trials("a folder that becomes read-only during a training, then is not", count(2, 20), trial)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_command_goes_on_after_a_disk_was_full(name, commands, small, evaluated, tmp_path, trials, count):
    def trial(index):
        reference, chance = evaluated / name, random.Random(index)
        run = evaluated / "run"
        with disk(tmp_path / f"disk_{index}") as room:
            out, log = room.folder / "out", tmp_path / f"{index}.log"
            sizes = {path.name: path.stat().st_size for path in reference.iterdir()}
            needed = sum(sizes.values())
            if index % 2:  # there is something from before: label maps of other patients, or all, which is replaced
                shutil.copytree(reference, out)
                for path in out.glob("phantom_0001_*") if name == "predict" else ():
                    path.unlink()
                needed = max(sizes[file] for file in sizes if name != "predict" or "0001" in file)
            before = {path: path.read_bytes() for path in out.rglob("*.gz")} if name == "predict" else {}
            line = line_of(name, small, run / "models" / "model.pt", run, out)
            room.fill(left=int(chance.uniform(0, 0.9) * needed) if index else 0)
            check_sentence(commands.start(log, *line), errno.ENOSPC, room.folder)
            if out.is_dir():
                check_whole(out)
            assert all(path.read_bytes() == content for path, content in before.items())
            room.free()
            command = commands.start(log, *line)
            assert command.wait() == 0, command.text()[-3000:]
            check_outputs(name, out, reference)
            check_whole(out)

    trials(f"a full disk during {name}, then room", count(1, 10), trial)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_read_only_folder_is_named(name, commands, small, evaluated, tmp_path, trials, count):
    def trial(index):
        run = evaluated / "run"
        with disk(tmp_path / f"disk_{index}") as room:
            out, log = room.folder / "out", tmp_path / f"{index}.log"
            if index % 2:
                shutil.copytree(evaluated / name, out)
            line = line_of(name, small, run / "models" / "model.pt", run, out)
            again = ["--overwrite", "True"] if name == "predict" and index % 2 else []
            room.forbid()
            check_sentence(commands.start(log, *line, *again), errno.EROFS, room.folder)
            if index % 2:
                check_outputs(name, out, evaluated / name)
            room.free()
            command = commands.start(log, *line, *again)
            assert command.wait() == 0, command.text()[-3000:]
            check_outputs(name, out, evaluated / name)

    trials(f"a read-only folder for {name}, then not", count(1, 4), trial)
