"""Times contenders in turns, so that whatever else the machine does meets all of them, and prints tables."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.files import format_table

GIB = 2**30
Call = Callable[[], object]


def interleave(
    contenders: Mapping[str, Call | Apart], repeats: int = 5, warm_up: int = 1
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each call and the peak memory in GiB, by contender; the first ``warm_up`` rounds do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    memory = dict.fromkeys(contenders, 0.0)
    for turn in range(warm_up + repeats):
        for name, call in contenders.items():
            value, peak = call.timed() if isinstance(call, Apart) else timed(call)
            memory[name] = max(memory[name], peak)
            if turn >= warm_up:
                seconds[name].append(value)
    return seconds, memory


def timed(call: Call) -> tuple[float, float]:
    """Seconds and peak memory in GiB: what the GPU allocated, or without one the process's resident memory."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    with ResidentMemory() as resident:
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else resident.peak / GIB


class Apart:
    """A contender in a process of its own, with the C library's allocator as it is by default.

    Args:
        build: called there, once; it returns the contender. Its arguments follow.
        refill: called here, untimed, after each turn, for which this process gives the memory that it keeps back to the
            system: two processes may want more than the machine has.
    """

    def __init__(self, build: Callable[..., Call], *arguments: Any, refill: Call) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.refill = refill
        self.pipe, theirs = spawn.Pipe()
        spawn.Process(target=answer, args=(theirs, build, arguments), daemon=True).start()
        theirs.close()

    def timed(self) -> tuple[float, float]:
        """Seconds and peak memory in GiB of a call there.

        Raises:
            RuntimeError: if the process was killed. What the contender itself raises is raised here.
        """
        give_memory_back()
        try:
            self.pipe.send(None)
            result = self.pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError("a contender's own process was killed, for want of memory?") from None
        if isinstance(result, Exception):
            raise result
        self.refill()
        return result


def answer(pipe: Connection, build: Callable[..., Call], arguments: tuple) -> None:
    """In a process of its own: time the call each time the pipe asks, and send the result or the error."""
    call, result = None, None
    with suppress(EOFError, OSError):  # until the asking process ends
        while True:
            pipe.recv()
            try:
                call = call or build(*arguments)
                result = timed(call)
            except Exception as error:
                result = error
            pipe.send(result)


def give_memory_back() -> None:
    """What nothing uses, of a GPU's memory and, with glibc, of the host's."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class ResidentMemory:
    """Largest resident memory of this process, in bytes, looked at every 5 ms."""

    def __enter__(self) -> ResidentMemory:
        self.peak, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self) -> None:
        while True:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.peak = max(self.peak, pages * os.sysconf("SC_PAGE_SIZE"))
            if self.done.wait(0.005):
                return

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def show(title: str, seconds: Mapping[str, list[float]], memory: Mapping[str, float], base: str) -> dict[str, Any]:
    """Print ratios to the base first, then medians, spread and how many of them a second; the same as a mapping."""
    result = {}
    rows = [["", f"times {base}", "median s", "min", "max", "per second", "peak GiB"]]
    for name, values in seconds.items():
        ratio = float(np.median(np.array(values) / np.array(seconds[base])))
        result[name] = {
            "ratio": ratio,
            "median": float(np.median(values)),
            "seconds": values,
            "peak_gib": memory[name],
        }
        spread = [f"{f(values):.3f}" for f in (np.median, min, max)]
        rows.append([name, f"{ratio:.3f}", *spread, f"{1 / np.median(values):.3f}", f"{memory[name]:.1f}"])
    print(f"\n{title}\n\n{format_table(rows)}", flush=True)
    return {"title": title, "results": result}
