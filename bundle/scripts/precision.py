"""Where networks may compute in bfloat16, and how they lie in memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["autocast", "fast_bfloat16", "fast_channels_last", "lay_channels_last", "warn_of_amp"]

logger = logging.getLogger(__name__)

LEAST_PATCH = 24  # voxels a side: with 16, PyTorch's CPU gradients are at times senseless (docs/scaling.md)


def fast_bfloat16(device: torch.device | str, patch: Sequence[int] = ()) -> bool:
    """Whether bfloat16 pays: on GPUs from Ampere on, and on CPUs with AVX-512 BF16 or AMX. Others only emulate it.

    Args:
        device: of the networks.
        patch: (H, W, D) of training, in voxels; on CPUs too small ones are left in float32.
    """
    if kind(device) == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind(device) != "cpu":
        return True
    if isinstance(patch, (list, tuple)) and patch and min(patch) < LEAST_PATCH:
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def warn_of_amp(amp: bool, device: torch.device | str, patch: Sequence[int] = ()) -> None:
    """Log a warning where bfloat16 was asked for and does not pay; arguments as those of ``fast_bfloat16``."""
    if amp and not fast_bfloat16(device, patch):
        fault = f"takes it wrongly in patches of {list(patch)}" if fast_bfloat16(device) else "only emulates bfloat16"
        logger.warning(f"amp is True, but {device} {fault}: leave --amp out, and it is on where it pays.")


def fast_channels_last(device: torch.device | str, amp: bool) -> bool:
    """Whether this layout pays: on CPUs in float32, not in bfloat16, nor on an H100 (docs/scaling.md)."""
    return kind(device) == "cpu" and not amp


def kind(device: torch.device | str) -> str:
    """cpu, cuda and so on. Any text will do: whether there is such a device is for the check of settings to say."""
    return str(device).split(":")[0]


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """Convolutions and linear layers in bfloat16, on any device; MONAI's engines do so on CUDA alone."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def lay_channels_last(network: nn.Module) -> None:
    """Lay the weights of 3-D convolutions out channels last, which activations follow. Kernels of one voxel are so
    either way, and are left: DDP would warn of gradients with other strides."""
    for parameter in network.parameters():
        if parameter.ndim == 5 and parameter[0, 0].numel() > 1:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
