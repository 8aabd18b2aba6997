"""Peak memory of one training step of all four networks, with and without activation checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser

from measure import timed
from scripts.device import keep_freed_memory, seed_everything
from step import METHOD


def memory(size: int, widths: list[int], checkpointing: bool = False) -> dict[str, Any]:
    """One patch; call it in a process of its own, which starts with nothing."""
    step, device = random_step(size, widths, activation_checkpointing=checkpointing)
    if device.type == "cuda":
        step()  # the first also sets the device up
    seconds, peak = timed(step)
    state = "on" if checkpointing else "off"
    title = f"A training step, {size}³, widths {widths}, batch 1, activation checkpointing {state}"
    print(f"\n{title}: peak {peak:.1f} GiB, {seconds:.1f} s", flush=True)
    return {"title": title, "peak_gib": peak, "seconds": seconds}


def random_step(
    size: int, widths: Sequence[int], patches: int = 1, compiled: dict[str, Any] | None = None, **options: Any
) -> tuple[Callable[[], None], torch.device]:
    """A training step of MTCM-KD on random patches, without loader and handlers, and its device.

    Args:
        size: edge of the patches in voxels.
        widths: of all networks.
        patches: of a step.
        compiled: options of ``torch.compile`` for each network; None for none.
        options: further keys of train.yaml.
    """
    parser = ConfigParser()
    parser.read_config(METHOD)
    parser.update({"student_widths": list(widths), "teachers::flair::network::widths": list(widths)})
    parser.update({"roi_size": [size] * 3, "distillation::patients": None, **options})
    keep_freed_memory(parser.get_parsed_content("device"))
    seed_everything(0, parser.get_parsed_content("deterministic"))
    network, loss = parser.get_parsed_content("network").train(), parser.get_parsed_content("loss")
    loss.distilling = True
    if compiled is not None:
        for module in (network.student, *(teacher.network for teacher in network.teachers.values())):
            module.compile(**compiled)
    optimizer = parser.get_parsed_content("optimizer")
    device = next(network.parameters()).device
    names = ["image", *parser.get_parsed_content("teacher_images")]
    images = {name: torch.randn(patches, 1, size, size, size, device=device) for name in names}
    label = torch.randint(0, 4, (patches, 1, size, size, size), device=device)

    def step() -> None:
        if compiled is not None:
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad()
        loss(network(**images), label).backward()
        optimizer.step()

    return step, device
