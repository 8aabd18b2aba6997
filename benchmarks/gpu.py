"""A GPU in ten minutes: a training step against its floor, how busy the GPU is, and patients a second of prediction.

python benchmarks/gpu.py [--output gpu.json] [--limit 420] [--repeats 5] [--tiny True]

Random data, no files. After the limit (seconds) no further row starts. On a CPU, and with ``--tiny True``,
networks and patches are tiny: this only shows that the script works. It has not been run on a GPU.
"""

from __future__ import annotations

import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from floor import floor
from measure import give_memory_back, timed
from memory import random_step
from scripts.command import run_command
from scripts.device import keep_freed_memory, seed_everything
from scripts.files import format_table
from scripts.inference.predictor import make_members

INFERENCE = Path(__file__).resolve().parents[1] / "bundle" / "configs" / "inference.yaml"
FULL, SMALL = [32, 64, 128, 256], [8, 16, 32, 64]
GRAPHS: dict[str, Any] = {"mode": "reduce-overhead"}  # CUDA graphs: one start for many kernels
TUNED: dict[str, Any] = {"deterministic": False}
VARIANTS: dict[str, dict[str, Any]] = {  # keys of train.yaml, and `compiled` for torch.compile
    "bfloat16": {"amp": True},
    "bfloat16, autotuned": {"amp": True, **TUNED},
    "bfloat16, autotuned, channels last": {"amp": True, "channels_last": True, **TUNED},
    "float32": {"amp": False},
    "float32, autotuned": {"amp": False, **TUNED},
    "bfloat16, autotuned, compiled": {"amp": True, "compiled": {}, **TUNED},
}
SMALL_VARIANTS: dict[str, dict[str, Any]] = {
    "bfloat16": {"amp": True},
    "bfloat16, autotuned": {"amp": True, **TUNED},
    "bfloat16, autotuned, CUDA graphs": {"amp": True, "compiled": GRAPHS, **TUNED},
    "bfloat16, autotuned, channels last, CUDA graphs": {
        "amp": True,
        "channels_last": True,
        "compiled": GRAPHS,
        **TUNED,
    },
}


def gpu(output: str = "gpu.json", limit: float = 420, repeats: int = 5, tiny: bool = False) -> None:
    """Print a table of training steps and one of predictions, and write both as JSON."""
    start = time.monotonic()
    cuda = torch.cuda.is_available()
    tiny = tiny or not cuda
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "tiny": tiny,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    steps: dict[str, Any] = {}
    predictions: dict[str, Any] = {}
    jobs: dict[str, tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = {}
    for title, shape, variants in shapes(tiny):
        for name, options in variants.items():
            jobs[f"{title}, {name}"] = steps, lambda s=shape, o=options: train(s, o, repeats, tiny)
    for name, options in {"float32": {"amp": False}, "bfloat16": {"amp": True}}.items():
        jobs[f"one patient at 2 mm, {name}"] = predictions, lambda o=options: predict(o, repeats, tiny)
    for name, (results, job) in sorted(jobs.items(), key=lambda item: item[1][0] is steps):  # the short ones first
        results[name] = row(job, limit - (time.monotonic() - start))
        print(f"{name}: {results[name]}", flush=True)
        Path(output).write_text(json.dumps({**about, "steps": steps, "predictions": predictions}, indent=1) + "\n")
    show_rows("A training step, random patches, four networks", steps)
    show_rows("The network of a prediction, without reading and writing files", predictions)


def shapes(tiny: bool) -> list[tuple[str, dict[str, Any], dict[str, dict[str, Any]]]]:
    """Titles, shapes and variants of the training steps; the most wanted first."""
    if tiny:
        shape = {"size": 24, "widths": [4, 8, 12, 16], "patches": 1}
        return [("24³, widths 4-16", shape, {"bfloat16": {"amp": True}, "compiled": {"amp": False, "compiled": {}}})]
    large, small = {"size": 128, "widths": FULL, "patches": 1}, {"size": 64, "widths": SMALL, "patches": 2}
    return [("2 of 64³, widths 8-64", small, SMALL_VARIANTS), ("128³, widths 32-256", large, VARIANTS)]


def row(job: Callable[[], dict[str, Any]], left: float) -> dict[str, Any]:
    """What a job finds; or why it was not done, so that the others still are."""
    if left <= 0:
        return {"failed": "no time left"}
    try:
        return job()
    except (RuntimeError, AssertionError) as error:  # memory, or what torch.compile does not know
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"}
    finally:
        gc.collect()
        torch.compiler.reset()
        give_memory_back()


def train(shape: Mapping[str, Any], options: Mapping[str, Any], repeats: int, tiny: bool) -> dict[str, Any]:
    """A step's seconds, its floor, peak memory, the GPU's busy share and its kernel starts."""
    options = dict(options)
    if tiny and "compiled" in options:
        options["compiled"] = {"backend": "eager"}  # traced, but no kernel is built
    first = time.monotonic()
    step, device = random_step(**shape, **options)
    for _ in range(3):  # compile, try kernels, record graphs
        step()
    warm_up = time.monotonic() - first
    turns = [timed(step) for _ in range(repeats)]
    seconds = float(np.median([turn[0] for turn in turns]))
    found = {"s": seconds, "warm-up s": warm_up, "peak GiB": max(turn[1] for turn in turns)}
    found |= kernels(step, seconds)
    if "compiled" not in options and not options.get("channels_last"):  # which would count the same operations
        least = floor(step, device, options["amp"])
        found |= {"floor s": least["floor_s"], "times floor": seconds / least["floor_s"]}
    return found


def kernels(step: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Kernels that a step starts, and the share of its time in which the GPU is busy; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    events = profiler.key_averages()
    run = [event for event in events if event.device_type == DeviceType.CUDA]
    starts = sum(event.count for event in events if "LaunchKernel" in event.key or "GraphLaunch" in event.key)
    busy = sum(event.self_device_time_total for event in run) / 1e6
    return {"kernels": sum(event.count for event in run), "starts": starts, "busy": busy / seconds}


def predict(options: Mapping[str, Any], repeats: int, tiny: bool) -> dict[str, Any]:
    """Seconds of the student's network for a brain at 2 mm, mirrored as shipped, and patients a second."""
    parser = ConfigParser()
    parser.read_config(str(INFERENCE))
    parser.update({"bundle_root": str(INFERENCE.parents[1]), **options})
    if tiny:
        parser.update({"student_widths": [4, 8, 12, 16], "window_size": [24, 24, 24]})
    device = parser.get_parsed_content("device")
    keep_freed_memory(device)
    seed_everything(0)
    layout = parser.get_parsed_content("channels_last")
    (network,) = make_members(parser.get_parsed_content("network_def"), "", device, layout)
    network.eval()
    inferer = parser.get_parsed_content("inferer")
    volume = torch.randn(1, 1, *([24] * 3 if tiny else [80, 96, 80]), device=device)

    @torch.no_grad()
    def patient() -> None:
        inferer(volume, network)

    patient()
    turns = [timed(patient) for _ in range(repeats)]
    seconds = float(np.median([turn[0] for turn in turns]))
    return {"s": seconds, "patients a second": 1 / seconds, "peak GiB": max(turn[1] for turn in turns)}


def show_rows(title: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table: a row of each name, a column of each figure."""
    columns = list(dict.fromkeys(key for found in results.values() for key in found))
    rows = [["", *columns]]
    for name, found in results.items():
        cells = [found.get(key, "") for key in columns]
        rows.append([name, *(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells)])
    print(f"\n{title}\n\n{format_table(rows)}", flush=True)


if __name__ == "__main__":
    run_command(gpu)
