"""Other ends of a training: signals, a killed loading process or MLflow server; and what is left after an end."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from faults.runs import EPOCHS, Training, make_small
from scripts.files import read_table
from servers import mlflow_server

pytestmark = pytest.mark.slow
METHODS = ("student_alone", "mtcm_kd")
SIGNALS = ((signal.SIGTERM, 143), (signal.SIGINT, 130))


def processes_of(session):
    """Processes of a session that are not a command's own remains."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it ended
        if int(own) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def memory_of(pid):
    """Resident memory that is the process's own, in KiB, and its number of open files."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Traces:
    """What a command leaves outside of its folder: processes, shared memory and temporary files."""

    def __init__(self, folder):
        self.temporary = folder  # with a short path, for the sockets of loading processes
        self.shared = self.shared_memory()

    @staticmethod
    def shared_memory():
        """Names in shared memory, except those of programs beside the test: MLflow's folders, joblib's semaphores."""
        return {name for name in os.listdir("/dev/shm") if not name.startswith(("tmp", "sem.loky-"))}

    def check_none(self, command, seconds=15.0):
        """Loading processes of a killed training look for it every five seconds, and end."""
        deadline = time.monotonic() + seconds
        while (processes_of(command.pid) or self.shared_memory() - self.shared) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not processes_of(command.pid)
        assert not self.shared_memory() - self.shared
        assert not list(self.temporary.iterdir())


def in_epoch(command, epoch):
    return lambda: f"epoch {epoch}/" in command.text() or command.ended()


@pytest.fixture(scope="module")
def longer(commands, tmp_path_factory):
    """A training of epochs of four steps that nothing disturbed, by number of loading processes."""
    folder = tmp_path_factory.mktemp("longer")
    six = make_small(commands, folder, cases=6)
    made = {
        workers: Training(commands, six, folder / str(workers), METHODS[workers], "--num_workers", workers)
        for workers in (0, 1)
    }
    for training in made.values():
        training.succeed()
    return made


def test_a_signal_ends_a_training_that_resumes_bit_for_bit(commands, longer, tmp_path, trials, count):
    def trial(index):
        reference, (number, code), chance = longer[index % 2], SIGNALS[index // 2 % 2], random.Random(index)
        training = Training(commands, reference.small, tmp_path / str(index), reference.method, *reference.options)
        command = training.start("--resume", "auto")
        command.until((training.models / "checkpoint.pt").is_file)
        time.sleep(chance.uniform(0, 0.8) * reference.seconds / 2)  # about half is over by now
        command.kill(number)
        assert command.wait() in (code, -number, 0), command.text()[-2000:]  # or before the first step, or at the end
        text = command.text()
        assert "Traceback" not in text
        if "epoch 1/" in text and f"epoch {EPOCHS}/" not in text:  # neither before the first step nor at the end
            assert command.code == code and re.search("Stopped (after|in) ", text), text[-2000:]
        in_epochs.append("Stopped after step" in text)
        training.succeed("--resume", "auto")
        training.check_same(reference)
        if index == last:
            return f"{sum(in_epochs)} in the middle of an epoch"

    in_epochs, last = [], count(4, 20) - 1
    trials("SIGTERM or Ctrl-C during a training; --resume auto", count(4, 20), trial)


def test_a_signal_before_a_training_starts_ends_it_without_a_traceback(commands, small, tmp_path, trials, count):
    def trial(index):
        number, code = SIGNALS[index % 2]
        training = Training(commands, small, tmp_path / str(index), "mtcm_kd")
        command = training.start()
        command.until(lambda: "input summary" in command.text())
        time.sleep(random.Random(index).uniform(0.2, 1))
        command.kill(number)
        assert command.wait() in (code, -number), command.text()[-2000:]
        assert "Traceback" not in command.text()
        assert not list(training.folder.rglob(".part_*"))

    trials("SIGTERM or Ctrl-C while a training is prepared", count(2, 10), trial)


def test_a_training_resumes_after_its_loading_process_was_killed(
    commands, small, references, tmp_path, tmp_path_factory, trials, count
):
    def trial(index):
        method, workers = METHODS[index % 2], ["--num_workers", "1"]
        training = Training(commands, small, tmp_path / str(index), method)
        traces = Traces(tmp_path_factory.mktemp("t"))
        command = training.start("--epochs", "200", *workers, TMPDIR=str(traces.temporary))
        command.until(in_epoch(command, 1 + index % 3))
        time.sleep(random.Random(index).uniform(0, 0.5))
        while not command.ended():  # a loading process may end by itself just before
            for child in set(processes_of(command.pid)) - {command.pid}:  # in the session that this test started
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.05)
        assert command.wait() == 1, command.text()[-2000:]
        text = command.text()
        ignored = "Exception ignored in thread started by"  # Python's, if a thread was just starting
        assert "Traceback" not in re.sub(rf"{ignored}.*?(?=^\d{{4}}-|\Z)", "", text, flags=re.S | re.M), text[-3000:]
        assert any("--num_workers" in line for line in text.splitlines()), text[-3000:]
        traces.check_none(command)
        done = len(read_table(training.folder / "history.csv"))
        training.succeed("--epochs", done + 1, "--resume", "auto")
        epochs = [row["epoch"] for row in read_table(training.folder / "history.csv")]
        assert epochs == [str(epoch) for epoch in range(1, len(epochs) + 1)]

    trials("the loading process of a training is killed; --resume auto", count(1, 10), trial)


@pytest.mark.parametrize("end", ["its end", "Ctrl-C", "kill -9"])
def test_nothing_is_left(end, commands, small, tmp_path, tmp_path_factory, trials, count):
    """No process, shared memory, temporary or hidden file; after a kill the next run removes those of the folder."""

    def trial(index):
        training = Training(commands, small, tmp_path / str(index), METHODS[index % 2])
        traces = Traces(tmp_path_factory.mktemp("t"))
        epochs = EPOCHS if end == "its end" else 200
        options = ["--num_workers", index % 3, "--cache", ["memory", "disk"][index % 2]]
        options += ["--cache_dir", tmp_path / "cache", "--resume", "auto"]
        command = training.start("--epochs", epochs, *options, TMPDIR=str(traces.temporary))
        if end != "its end":
            command.until(in_epoch(command, 2))
            command.kill(signal.SIGINT if end == "Ctrl-C" else signal.SIGKILL)
        assert command.wait() == {"its end": 0, "Ctrl-C": 130, "kill -9": -9}[end], command.text()[-2000:]
        traces.check_none(command)
        if end == "kill -9":
            done = len(read_table(training.folder / "history.csv"))
            command = training.start("--epochs", done + 1, *options, TMPDIR=str(traces.temporary))
            assert command.wait() == 0, command.text()[-2000:]
            traces.check_none(command)
        assert not [path for path in training.files() if path.name.startswith(".")]
        assert not list((tmp_path / "cache").glob(".part_*"))

    trials(f"process, shared memory or file left after {end}", count(1, 6), trial)


@pytest.mark.parametrize("method, workers", [("mtcm_kd", 0), ("student_alone", 1)])
def test_memory_does_not_grow(method, workers, commands, small, tmp_path, trials, count):
    """Memory and open files of the last ten epochs, against those of epochs 20 to 29.

    Files that are about to close may be counted, so one more file in ten epochs passes."""
    epochs = count(60, 300)

    def trial(_):
        training = Training(commands, small, tmp_path / "run", method)
        command = training.start("--epochs", epochs, "--num_workers", workers)
        seen = {}
        while not command.ended():
            epoch = command.text().count("epoch ")
            if epoch not in seen and epoch:
                with contextlib.suppress(KeyError, OSError):  # it has just ended
                    seen[epoch] = memory_of(command.pid)
            time.sleep(0.02)
        assert command.wait() == 0, command.text()[-2000:]
        early, late = ([seen[epoch] for epoch in seen if low <= epoch < low + 10] for low in (20, epochs - 10))
        assert early and late
        (memory, files), (memory_later, files_later) = (zip(*part) for part in (early, late))
        assert max(memory_later) < 1.05 * max(memory), (memory, memory_later)
        assert min(files_later) - min(files) <= (epochs - 30) / 10, (files, files_later)
        return f"{max(memory_later) / max(memory) - 1:+.1%} of {max(memory) / 1024:.0f} MiB"

    trials(f"memory grows by 5% in {epochs} epochs ({method}, {workers} loading processes)", 1, trial)


@pytest.fixture
def server(tmp_path, free_port):
    """An MLflow server that is not started yet."""
    pytest.importorskip("mlflow", reason="mlflow is an extra: pip install '.[track]'")
    own = mlflow_server(tmp_path, free_port())
    yield own
    own.end(signal.SIGKILL)


def test_a_training_outlives_its_mlflow_server(server, commands, small, references, tmp_path, trials, count):
    import mlflow

    server.start()

    def trial(index):
        training = Training(commands, small, tmp_path / f"followed_{index}", "mtcm_kd")
        command = training.start("--epochs", 12, "--mlflow_uri", server.uri)
        command.until(in_epoch(command, 2 + index % 3))
        server.end(signal.SIGKILL)
        command.until(in_epoch(command, 6 + index % 3))
        back = index % 3 < 2  # else it comes after the training's end
        if back:
            server.start()
        assert command.wait(300) == 0, command.text()[-3000:]
        text = command.text()
        assert "Traceback" not in text and text.count("training goes on") == 1, text[-4000:]
        rows = read_table(training.folder / "history.csv")
        assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 13)]
        if not back:
            server.start()
        if not back or command.text().count("does not take"):
            words = ["track", "--run", training.folder, "--mlflow_uri", server.uri]
            later = commands.start(tmp_path / f"track_{index}.log", "scripts", *words)
            assert later.wait() == 0, later.text()[-3000:]
        client = mlflow.MlflowClient(server.uri)
        experiment = client.get_experiment_by_name("mtcm_kd").experiment_id
        (run,) = client.search_runs([experiment], f"run_name = 'followed_{index}'")
        assert run.info.status == "FINISHED"
        for name in ("loss/total", "weight/flair", "validation/dice/WT"):
            history = client.get_metric_history(run.info.run_id, name)
            wanted = [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
            found = [(item.step, item.value) for item in history]
            assert [step for step, _ in found] == [step for step, _ in wanted]
            assert [value for _, value in found] == pytest.approx([value for _, value in wanted])
        files = {file.path for part in ("", "models") for file in client.list_artifacts(run.info.run_id, part)}
        assert {"training.json", "history.csv", "models/model.pt", "models/checkpoint.pt"} <= files

    trials("the MLflow server is killed during a training, and comes back", count(1, 6), trial)
