"""All benchmarks: tables on standard output, and the same with machine and date as JSON.

python benchmarks/benchmark.py --dataset_dir DIR [--output FILE] [--repeats 5]
  [--parts data,step,inference,memory]

They take over an hour on two cores.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from data import data
from inference import inference, shipped_memory
from memory import memory
from scripts.command import run_command
from scripts.device import fast_bfloat16, fast_channels_last
from step import step

PARTS = ("data", "step", "inference", "memory")
SMALL, FULL = [8, 16, 32, 64], [32, 64, 128, 256]


def benchmark(
    dataset_dir: str,
    output: str = "benchmark.json",
    repeats: int = 5,
    parts: Sequence[str] = PARTS,
) -> None:
    """Run the parts on BraTS patients at 1 mm, three or more: full widths on a GPU, small ones on a CPU."""
    chosen = list(parts) if isinstance(parts, (list, tuple)) else [parts]
    check(dataset_dir, output, repeats, chosen)
    cuda = torch.cuda.is_available()
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    calls = calls_of(dataset_dir, repeats, cuda)
    results: dict[str, list] = {name: [] for name in chosen}
    failed = []
    for name in chosen:
        for function, *arguments in calls[name]:
            try:
                results[name].append(apart(function, *arguments))
            except (BrokenProcessPool, RuntimeError) as error:  # full widths in float32 want more than 24 GiB
                killed = isinstance(error, BrokenProcessPool)
                if not (killed or "memory" in str(error)):
                    raise
                reason = "its process was killed, for want of memory?" if killed else str(error)
                failed.append(f"{name} {arguments[:3]}")
                print(f"\n{failed[-1]}: {reason}", flush=True)
                results[name].append({"title": failed[-1], "failed": reason})
            Path(output).write_text(json.dumps({**about, **results}, indent=1) + "\n")
    print(f"\n-> {output}")
    if failed:
        raise SystemExit(f"Not measured: {'; '.join(failed)}.")


def apart(function: Callable[..., dict], *arguments: Any) -> dict:
    """What a function returns in a process of its own, which has no memory of the others."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def calls_of(dataset_dir: str, repeats: int, cuda: bool) -> dict[str, list[tuple]]:
    """Functions and their arguments, by part."""
    widths = FULL if cuda else SMALL
    half = fast_bfloat16("cuda" if cuda else "cpu")
    last = fast_channels_last("cuda" if cuda else "cpu", half, training=True)
    variants: dict[str, dict] = {"one patch": {"batch_size": 1}, "other layout": {"channels_last": not last}}
    if half:
        variants["float32"] = {"amp": False}
    if cuda:
        compiled = {"train::trainer::compile": True}
        variants |= {"compiled": compiled, "channels last, compiled": {"channels_last": True, **compiled}}
    return {
        "data": [(data, dataset_dir, 128, repeats)],
        "step": [
            (step, dataset_dir, 64, 2, widths, repeats, variants),
            (step, dataset_dir, 128, 2, widths, repeats, variants)
            if cuda
            else (step, dataset_dir, 128, 1, widths, repeats),  # two patches and the peer want more than 24 GiB
        ],
        "inference": [(shipped_memory, dataset_dir), (inference, dataset_dir, repeats)],
        "memory": [(memory, 64, SMALL), (memory, 128, SMALL), (memory, 128, FULL), (memory, 128, FULL, True)],
    }


def check(dataset_dir: str, output: str, repeats: int, parts: Sequence[str]) -> None:
    """End with a sentence where an argument would fail after minutes."""
    wanted = [f"{name}.nii.gz" for name in ("flair", "t1", "t1ce", "t2", "seg")]
    patients = {path.parent for path in Path(str(dataset_dir)).glob("*/*_t1ce.nii.gz")}
    whole = [folder for folder in patients if all(any(folder.glob(f"*_{name}")) for name in wanted)]
    if len(whole) < 3 or len(whole) < len(patients):
        raise SystemExit(
            f"dataset_dir is {dataset_dir!r} with {len(whole)} whole patients of {len(patients)}, expected at least 3, "
            f"all of them whole: CASE/CASE_t1ce.nii.gz and so on for each of {', '.join(wanted)}."
        )
    if type(repeats) is not int or repeats < 1:
        raise SystemExit(f"repeats is {repeats!r}, expected a whole number of at least 1.")
    if not isinstance(output, str) or Path(output).is_dir() or not Path(output).absolute().parent.is_dir():
        raise SystemExit(f"output is {output!r}, expected a file in a folder that exists.")
    if not parts or any(name not in PARTS for name in parts):
        raise SystemExit(f"parts is {list(parts)}, expected some of {', '.join(PARTS)}.")


if __name__ == "__main__":
    run_command(benchmark)
