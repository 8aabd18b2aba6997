"""The least time that a step can take on this device, and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["floor"]


def floor(step: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Print and return the step's floor: its operations over the measured rate of matrix products (bfloat16 on a GPU),
    and what it keeps for the backward pass, written and read once, over the measured rate of copies; then a profile."""
    kept: list[int] = []
    with (
        FlopCounterMode(display=False) as counter,
        saved_tensors_hooks(lambda t: (kept.append(t.nbytes), t)[1], lambda t: t),
    ):
        step()
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    copied = torch.empty(2**28, dtype=torch.uint8, device=device)
    operations = 2 * size**3 / seconds(lambda: a @ b, device)
    copies = 2 * copied.nbytes / seconds(copied.clone, device)
    found = {
        "tflop": counter.get_total_flops() / 1e12,
        "matmul_tflops": operations / 1e12,
        "floor_of_operations_s": counter.get_total_flops() / operations,
        "gb_kept": sum(kept) / 1e9,
        "copy_gb_per_s": copies / 1e9,
        "floor_of_bytes_s": 2 * sum(kept) / copies,
    }
    print("\nFloor: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        step()
    print(profiler.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=12), flush=True)
    return found


def seconds(call: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    call()
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - start) / repeats


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
