"""kill -9 at any moment: the run resumes and ends with the weights of a run that nothing disturbed."""

from __future__ import annotations

import random
import shutil
import signal
import time

import pytest

from faults.runs import Training

pytestmark = pytest.mark.slow
METHODS = ("student_alone", "mtcm_kd")


def partial_files(training):
    """Files that the training is writing: the atomic writer names them so until they are whole."""
    return list(training.models.glob(".part_*"))


def kill_while_writing(training, command, skipped):
    """Kill a command in the middle of its write of a checkpoint, not of the first ``skipped`` ones.

    It is stopped when the file appears; if the file is still there then, it is killed.
    """
    while not command.ended():
        found = partial_files(training)
        if found and skipped <= 0:
            command.kill(signal.SIGSTOP)
            command.until(lambda: stopped(command) or command.ended(), pause=0)
            if partial_files(training):
                command.kill()
                command.wait()
                return True
            command.kill(signal.SIGCONT)
        elif found:
            skipped -= 1
            command.until(lambda: not partial_files(training) or command.ended(), pause=0)
    command.wait()
    return False


def stopped(command):
    with open(f"/proc/{command.pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def test_a_killed_training_resumes_bit_for_bit(commands, small, references, tmp_path, trials, count):
    moments = []

    def trial(index):
        method, chance = METHODS[index % 2], random.Random(index)
        training = Training(commands, small, tmp_path / str(index), method)
        command = training.start("--resume", "auto")
        moments.append(chance.uniform(0, references[method].seconds))
        time.sleep(moments[-1])
        command.kill()
        command.wait()
        training.succeed("--resume", "auto")
        training.check_same(references[method])

    trials("kill -9 at a random moment of a training; --resume auto", count(1, 50), trial)


def test_a_training_that_was_killed_while_it_wrote_a_checkpoint_resumes_bit_for_bit(
    commands, small, references, tmp_path, trials, count
):
    def trial(index):
        method, chance = METHODS[index % 2], random.Random(index)
        training = Training(commands, small, tmp_path / str(index), method)
        skipped = chance.randrange(7)  # of nine writes
        for before in range(skipped, skipped - 5, -1):
            if kill_while_writing(training, training.start("--resume", "auto"), before):
                break
            shutil.rmtree(training.folder)  # it ended: the writes were too short to be seen
        assert partial_files(training)
        training.succeed("--resume", "auto")
        training.check_same(references[method])

    trials("kill -9 while a checkpoint is written; --resume auto", count(1, 50), trial)
