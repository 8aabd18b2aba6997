"""Join the processes of a training on several GPUs or CPUs, and part from them in good order."""

from __future__ import annotations

import atexit
import gc
import os

import ignite.distributed as idist
import torch

from scripts.errors import UserError


def join_processes(backend: str) -> None:
    """Join the other processes, as ``ignite.distributed.initialize`` does, and free the network before Python ends.

    PyTorch's threads of gloo live as long as the network that they served, and one that frees a tensor while Python
    shuts down aborts the process (seen in 1 of 100 ends). So the network is freed first, which ends the threads.

    Args:
        backend: of ``torch.distributed``: gloo or nccl.

    Raises:
        UserError: if this machine has GPUs, but fewer than processes.
    """
    gpus, processes = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if 0 < gpus < processes:
        raise UserError(f"processes is {processes}, but this machine has {gpus} GPU(s): give --processes {gpus}.")
    if {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        os.environ.pop("SLURM_JOB_ID", None)  # torchrun has numbered the processes; in a job Ignite would ask Slurm
    idist.initialize(backend)
    atexit.register(gc.collect)  # the network and its trainer refer to one another
