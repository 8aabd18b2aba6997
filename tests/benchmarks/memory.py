"""Peak memory of one training step of all four networks, with and without activation checkpointing."""

from __future__ import annotations

import multiprocessing
from typing import Any

import torch
from measure import timed
from monai.bundle import ConfigParser
from step import METHOD

from scripts.summary import format_table

__all__ = ["memory"]


def memory(size: int, widths: list[int]) -> dict[str, Any]:
    """One patch; each way in a process of its own, which starts with nothing."""
    rows, results = [["activation checkpointing", "peak GiB", "s"]], {}
    for name, checkpointing in (("no", False), ("yes", True)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, peak = pool.apply(one_step, (size, widths, checkpointing))
        results[name] = {"peak_gib": peak, "seconds": seconds}
        rows.append([name, f"{peak:.1f}", f"{seconds:.1f}"])
    title = f"Memory of a training step, {size}³, widths {widths}, batch 1"
    print(f"\n{title}\n\n{format_table(rows)}", flush=True)
    return {"title": title, "results": results}


def one_step(size: int, widths: list[int], checkpointing: bool) -> tuple[float, float]:
    parser = ConfigParser()
    parser.read_config(METHOD)
    parser.update({"student_widths": widths, "teacher_widths": widths, "activation_checkpointing": checkpointing})
    network, loss = parser.get_parsed_content("network").train(), parser.get_parsed_content("loss")
    loss.distilling = True
    optimizer = parser.get_parsed_content("optimizer")
    device = next(network.parameters()).device
    names = ["image", *parser.get_parsed_content("sequences")]
    images = {name: torch.randn(1, 1, size, size, size, device=device) for name in names}
    label = torch.randint(0, 4, (1, 1, size, size, size), device=device)

    def step() -> None:
        loss(network(**images), label).backward()
        optimizer.step()

    return timed(step)
