"""What the C library does with memory that tensors free."""

from __future__ import annotations

import ctypes
import sys

import torch

from scripts.precision import kind

__all__ = ["keep_freed_memory"]

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt(3), by number in malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory(device: torch.device | str) -> None:
    """Keep what tensors on a CPU free for the next ones, until the process ends.

    glibc gives large blocks back to the system at once, which zeroes each page when it hands it out anew: a quarter to
    two fifths of the time of a step or of a patient, for a tenth to a third less memory (docs/scaling.md).

    Args:
        device: of the networks. Nothing is done on others than CPUs, where PyTorch itself keeps it, nor with a C
            library that has no such parameters.
    """
    if kind(device) == "cpu" and sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, LARGEST)
