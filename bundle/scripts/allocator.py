"""What the C library does with memory that tensors free."""

from __future__ import annotations

import ctypes
import sys

import torch

from scripts.precision import kind

__all__ = ["keep_freed_memory", "mallopt"]

PARAMETERS = {"trim_threshold": -1, "mmap_threshold": -3, "mmap_max": -4}  # of mallopt(3), by number in malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory(device: torch.device | str) -> None:
    """Keep what tensors on a CPU free for the next ones, until the process ends.

    glibc gives large blocks back to the system at once, which zeroes each page when it hands it out anew: a quarter to
    two fifths of the time of a step or of a patient, for a tenth to a third less memory (docs/scaling.md).

    Args:
        device: of the networks; nothing is done on others than CPUs, where PyTorch itself keeps it.
    """
    if kind(device) == "cpu":
        mallopt(mmap_max=0, trim_threshold=LARGEST)


def mallopt(**values: int) -> bool:
    """Set parameters of glibc's allocator; False without effect where the C library is another one."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return False
    return all([libc.mallopt(PARAMETERS[name], value) for name, value in values.items()])
