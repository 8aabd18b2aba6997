"""Join the processes of a training on several GPUs or CPUs, and part from them in good order."""

from __future__ import annotations

import atexit
import gc

import ignite.distributed as idist

__all__ = ["join_processes"]


def join_processes(backend: str) -> None:
    """Join the other processes, as ``ignite.distributed.initialize`` does, and free the network before Python ends.

    PyTorch's threads of gloo live as long as the network that they served, and one that frees a tensor while Python
    shuts down aborts the process (seen in 1 of 100 ends). So the network is freed first, which ends the threads.

    Args:
        backend: of ``torch.distributed``: gloo or nccl.
    """
    idist.initialize(backend)
    atexit.register(gc.collect)  # the network and its trainer refer to one another
