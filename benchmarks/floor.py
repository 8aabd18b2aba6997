"""The least time that a step can take on this device, and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode


def floor(step: Callable[[], Any], device: torch.device, amp: bool) -> dict[str, float]:
    """Print and return the step's floor, the larger of two: its operations over the measured rate of matrix products,
    and what it keeps for the backward pass, written and read once, over the rate of copies. Then a profile, with
    convolutions' share.

    Args:
        step: one training step.
        device: of its networks.
        amp: whether they compute in bfloat16, in which matrix products are then timed.
    """
    kept: dict[int, int] = {}  # bytes by place in memory: what several layers keep counts once

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    size, dtype = 8192 if device.type == "cuda" else 2048, torch.bfloat16 if amp else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    copied = torch.empty(2**28, dtype=torch.uint8, device=device)
    operations = 2 * size**3 / seconds(lambda: a @ b, device)
    copies = 2 * copied.nbytes / seconds(copied.clone, device)
    bound = {
        "floor_of_operations_s": counter.get_total_flops() / operations,
        "floor_of_bytes_s": 2 * sum(kept.values()) / copies,
    }
    found = {
        "tflop": counter.get_total_flops() / 1e12,
        "matmul_tflops": operations / 1e12,
        "gb_kept": sum(kept.values()) / 1e9,
        "copy_gb_per_s": copies / 1e9,
        **bound,
        "floor_s": max(bound.values()),
        "convolutions": share_of_convolutions(step, device),
    }
    print("\nFloor: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()), flush=True)
    return found


def share_of_convolutions(step: Callable[[], Any], device: torch.device) -> float:
    """Profile a step, print what takes most of it, and return the share of convolutions and their gradients."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        step()
    events = profiler.key_averages()
    print(events.table(sort_by=f"self_{device.type}_time_total", row_limit=12))
    clock = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    calls = {e.key: getattr(e, clock) for e in events if e.device_type == DeviceType.CPU}  # not the kernels once more
    return sum(time for name, time in calls.items() if "conv" in name) / sum(calls.values())


def seconds(call: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """Mean seconds of a call, after one that is not counted."""
    call()
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - start) / repeats


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
