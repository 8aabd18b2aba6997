"""Freed memory stays with the process, where the C library can be told so."""

import ctypes
import subprocess
import sys

import pytest

from conftest import BUNDLE

PROGRAM = """
import os, torch
from scripts.allocator import keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1])
keep_freed_memory({device!r})
before = resident()
torch.ones(2**26)  # 256 MiB, of which the process has no reference at once
print((resident() - before) * os.sysconf("SC_PAGE_SIZE") / 2**20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
@pytest.mark.parametrize("device, kept", [("cpu", True), ("cuda:0", False)])
def test_freed_memory_of_tensors_on_a_cpu_stays_with_the_process(device, kept):
    program = PROGRAM.format(device=device)
    found = subprocess.run([sys.executable, "-c", program], cwd=BUNDLE, capture_output=True, text=True, check=True)
    assert (float(found.stdout) > 200) == kept
