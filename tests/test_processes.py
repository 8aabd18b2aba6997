"""Processes that train together end without a thread of gloo, since such a thread may abort Python's end."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from conftest import BUNDLE
from scripts.errors import UserError
from scripts.training import processes as processes_module

# The first thing that is registered is the last thing that runs. The network refers to itself, as a trainer's does.
TRAINING = """
import atexit
from pathlib import Path

def names():
    print(sorted(task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()))

atexit.register(names)
import ignite.distributed as idist, torch
from scripts.training.processes import join_processes

def train():
    network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    network.trainer = [network]
    network(torch.ones(1, 2)).sum().backward()
    idist.finalize()
    names()

join_processes("gloo")
train()
"""


@pytest.mark.parametrize("gpus, processes, fits", [(2, 4, False), (2, 2, True), (0, 4, True)])
def test_more_processes_than_gpus_are_named(gpus, processes, fits, monkeypatch):
    """A mock of a machine with GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(processes_module.idist, "initialize", lambda backend: None)
    monkeypatch.setattr(processes_module.atexit, "register", lambda action: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with nullcontext() if fits else pytest.raises(UserError, match=r"processes is 4, .* 2 GPU\(s\)"):
        processes_module.join_processes("nccl")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads the names of threads from /proc")
@pytest.mark.parametrize("slurm", [{}, {"SLURM_JOB_ID": "7"}], ids=["", "in a job of Slurm"])
def test_no_thread_of_gloo_outlives_the_network(slurm, free_port):
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **rank, **slurm, "MASTER_PORT": str(free_port())}
    line = [sys.executable, "-c", TRAINING]
    done = subprocess.run(line, cwd=BUNDLE, env=environment, capture_output=True, text=True, timeout=120, check=True)
    after, at_end = done.stdout.strip().splitlines()[-2:]
    assert "gloo" in after and "gloo" not in at_end
