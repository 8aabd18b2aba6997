"""What a terminal and a pipe show of a run."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading

import pytest
import torch
from ignite.engine import Engine, Events

from conftest import BUNDLE
from scripts.training.progress import EpochLine, duration

PROGRAM = """
import logging, sys, time
from ignite.engine import Engine
from scripts.training.progress import EpochLine, ProgressBar
logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
logging.getLogger("ignite").setLevel(logging.WARNING)
def step(engine, batch):
    time.sleep(0.15)  # longer than tqdm's shortest time between two drawings
    if batch == 2:
        logging.warning("in the middle of the epoch %d", engine.state.epoch)
    return {"loss": batch}
engine = Engine(step)
ProgressBar().attach(engine)
engine.state.metrics["loss/total"] = 0.5
EpochLine(Engine(step)).attach(engine)
engine.run([1, 2, 3], max_epochs=2)
"""
LINES = [
    "in the middle of the epoch 1",
    "epoch 1/2, loss 0.5000",
    "in the middle of the epoch 2",
    "epoch 2/2, loss 0.5000",
]


def start(**streams):
    return subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=BUNDLE, **streams)


def screen(text):
    """The lines that stay on a terminal: a carriage return goes back to the start of the line."""
    rows, column = [""], 0
    for character in text:
        if character == "\n":
            rows.append("")
        elif character != "\r":
            rows[-1] = rows[-1][:column] + character + rows[-1][column + 1 :]
        column = 0 if character in "\r\n" else column + 1
    return [row.rstrip() for row in rows if row.strip()]


def test_on_a_terminal_the_bar_leaves_whole_lines():
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # 24 lines of 80 characters
    shown = []

    def read():
        with contextlib.suppress(OSError):  # so Linux says that the terminal is closed
            while chunk := os.read(reader, 4096):
                shown.append(chunk)

    process = start(stdout=terminal, stderr=terminal)
    thread = threading.Thread(target=read)
    thread.start()
    assert process.wait(timeout=60) == 0
    os.close(terminal)
    thread.join(timeout=10)
    os.close(reader)
    text = b"".join(shown).decode()
    assert "3/3 |" in text and "loss=2" in text  # the bar was there
    assert [line.rsplit(",", 1)[0] if " left" in line else line for line in screen(text)] == LINES


def test_in_a_pipe_there_is_no_bar():
    process = start(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=60)
    assert [line.rsplit(",", 1)[0] if " left" in line else line for line in out.splitlines()] == LINES
    assert err == ""


def test_an_epochs_line_has_the_dice_of_its_own_validation_by_region(caplog):
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.metrics = {"dice/TC": 0.25, "dice/WT": 0.5, "dice/ET": 0.125, "val_mean_dice": 0.3}
    engine = Engine(lambda engine, batch: None)
    engine.state.metrics = {"loss/total": 1.5, "loss/student": 1.0}

    def validate(engine):
        evaluator.state.epoch = 2

    engine.add_event_handler(Events.EPOCH_COMPLETED(once=2), validate)
    EpochLine(evaluator).attach(engine)
    with caplog.at_level("INFO", logger="scripts.training.progress"):
        engine.run(torch.zeros(1), max_epochs=3)
    first, second, third = (message.rsplit(", ", 1)[0] for message in caplog.messages)
    assert (first, third) == ("epoch 1/3, loss 1.5000", "epoch 3/3, loss 1.5000")
    assert second == "epoch 2/3, loss 1.5000, Dice WT 0.500 TC 0.250 ET 0.125"


def test_a_resumed_run_counts_its_own_epochs_for_the_time_left(caplog, monkeypatch):
    seconds = iter([0.0, 60.0, 120.0])  # one minute an epoch
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    engine = Engine(lambda engine, batch: None)
    engine.state.metrics["loss/total"] = 0.5
    EpochLine(Engine(lambda engine, batch: None)).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "epoch", 8))  # as a checkpoint's loader does
    with caplog.at_level("INFO", logger="scripts.training.progress"):
        engine.run([1], max_epochs=10)
    assert [message.rsplit(", ", 1)[1] for message in caplog.messages] == ["1 min left", "0 s left"]


def test_the_time_left_is_that_of_the_epochs_left(caplog, monkeypatch):
    """A clock of which each epoch takes a minute; epochs before a resumed one do not count."""
    engine = Engine(lambda engine, batch: None)
    engine.state.metrics = {"loss/total": 1.0}
    monkeypatch.setattr("scripts.training.progress.time.monotonic", lambda: 60.0 * engine.state.epoch)
    EpochLine(Engine(lambda engine, batch: None)).attach(engine)
    engine.load_state_dict({"epoch": 70, "max_epochs": 200, "epoch_length": 1})
    engine.add_event_handler(Events.EPOCH_COMPLETED(once=72), lambda engine: engine.terminate())
    with caplog.at_level("INFO", logger="scripts.training.progress"):
        engine.run([0], max_epochs=200)
    assert [message.rsplit(", ", 1)[1] for message in caplog.messages] == ["2 h 09 min left", "2 h 08 min left"]


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (7510, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
