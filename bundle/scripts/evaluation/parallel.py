"""Call a function for many items in several processes, and get the results in the items' order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from scripts.environment import cores
from scripts.errors import UserError

FEWEST = 4  # items for a process: it takes a second to start, as long as two or three patients of 1 mm


def choose_workers(workers: int, items: int) -> int:
    """Number of processes for so many items: as many as were asked for, or if that is 0, at most one a core."""
    return max(1, min(workers or cores(), items if workers else items // FEWEST))


def map_in_order(function: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    """Results of ``function(item)``, in the order of the items.

    Args:
        function: of a module, because other processes import it by its name.
        items: what to call it with.
        workers: number of processes; with 1, this process does the work.

    Raises:
        UserError: if a process is killed.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # New processes: a copy of this one (fork) would hang where a thread, of PyTorch or of a notebook, holds a lock.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=end_with_parent)
    try:
        with starting_processes():
            results = pool.map(function, items)  # starts the processes
        yield from results
    except BrokenProcessPool as error:
        raise UserError("A scoring process was killed (memory?): run again, with fewer --workers.") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def starting_processes() -> Iterator[None]:
    """Start processes that do not import the user's program, and ignore Ctrl-C until ``end_with_parent``.

    By default they would import that program. It may take seconds (``monai.bundle``), or begin from the start (a
    script without ``if __name__ == ...``). And Ctrl-C would print a traceback while they import their modules.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    hold_ctrl_c(True)  # for these processes too: they inherit it
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        hold_ctrl_c(False)


def end_with_parent() -> None:
    """Let this process end at Ctrl-C without a traceback, and also when its parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    hold_ctrl_c(False)
    threading.Thread(target=wait_for_end, daemon=True).start()


def wait_for_end() -> None:
    """End this process when its parent ends, however that ended."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def hold_ctrl_c(hold: bool) -> None:
    """Keep Ctrl-C waiting for this thread, or let it come, where the system can (not on Windows)."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK, {signal.SIGINT})
