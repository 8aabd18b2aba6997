"""Peak memory of one training step of all four networks, with and without activation checkpointing."""

from __future__ import annotations

from typing import Any

import torch
from monai.bundle import ConfigParser

from measure import timed
from scripts.device import keep_freed_memory
from step import METHOD

__all__ = ["memory"]


def memory(size: int, widths: list[int], checkpointing: bool = False) -> dict[str, Any]:
    """One patch; call it in a process of its own, which starts with nothing."""
    seconds, peak = one_step(size, widths, checkpointing)
    state = "on" if checkpointing else "off"
    title = f"A training step, {size}³, widths {widths}, batch 1, activation checkpointing {state}"
    print(f"\n{title}: peak {peak:.1f} GiB, {seconds:.1f} s", flush=True)
    return {"title": title, "peak_gib": peak, "seconds": seconds}


def one_step(size: int, widths: list[int], checkpointing: bool) -> tuple[float, float]:
    parser = ConfigParser()
    parser.read_config(METHOD)
    parser.update({"student_widths": widths, "teachers::flair::network::widths": widths})
    parser.update({"activation_checkpointing": checkpointing, "distillation::patients": None})
    keep_freed_memory(parser.get_parsed_content("device"))
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

    if device.type == "cuda":
        step()  # the first also sets the device up
    return timed(step)
