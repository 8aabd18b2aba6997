"""Times contenders in turns, so that whatever else the machine does meets all of them, and writes a table and JSON."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.summary import format_table

__all__ = ["interleave", "show", "write"]


def interleave(
    contenders: Mapping[str, Callable[[], object]], repeats: int = 5, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call, by contender; the first ``warm_up`` rounds do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm_up + repeats):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def show(title: str, seconds: Mapping[str, list[float]], base: str) -> dict[str, Any]:
    """Print ratios to the base first, then medians and spread; the same as a mapping."""
    result = {}
    rows = [["", f"times {base}", "median s", "min", "max"]]
    for name, values in seconds.items():
        ratio = float(np.median(np.array(values) / np.array(seconds[base])))
        result[name] = {"ratio": ratio, "median": float(np.median(values)), "seconds": values}
        rows.append([name, f"{ratio:.2f}", *(f"{f(values):.3f}" for f in (np.median, min, max))])
    print(f"\n{title}\n\n{format_table(rows)}")
    return result


def write(path: str, results: Mapping[str, Any]) -> None:
    """Results with machine, versions and date, as JSON."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({**about, **results}, indent=1) + "\n")
    print(f"\n-> {path}")
