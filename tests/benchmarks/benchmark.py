"""All benchmarks: tables on standard output, and the same with machine and date as JSON.

python tests/benchmarks/benchmark.py --dataset_dir DIR [--output FILE] [--repeats 5]
  [--parts data,step,inference,memory]
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import fire
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bundle"))

from data import data
from inference import inference
from memory import memory
from step import step

SMALL, FULL = [8, 16, 32, 64], [32, 64, 128, 256]


def benchmark(
    dataset_dir: str,
    output: str = "benchmark.json",
    repeats: int = 5,
    parts: Sequence[str] = ("data", "step", "inference", "memory"),
) -> None:
    """Run the parts on BraTS patients at 1 mm, three or more: full widths on a GPU, small ones on a CPU."""
    cuda = torch.cuda.is_available()
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    widths = FULL if cuda else SMALL
    results = {}
    for name in [parts] if isinstance(parts, str) else parts:
        if name == "data":
            results["data"] = data(dataset_dir, 128, repeats)
        elif name == "step":
            variants = {"float32": {"amp": False}, "channels last": {"channels_last": True}}
            results["step_64"] = step(dataset_dir, 64, widths, repeats, variants)
            results["step_128"] = step(dataset_dir, 128, widths, repeats, variants if cuda else {})
        elif name == "inference":
            results["inference"] = inference(dataset_dir, repeats)
        elif name == "memory":
            results["memory"] = memory(128, FULL)
        else:
            raise SystemExit(f"parts names {name!r}, expected some of data, step, inference, memory.")
        Path(output).write_text(json.dumps({**about, **results}, indent=1) + "\n")
    print(f"\n-> {output}")


if __name__ == "__main__":
    fire.Fire(benchmark)
