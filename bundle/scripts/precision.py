"""Where networks may compute in bfloat16."""

from __future__ import annotations

import torch

__all__ = ["autocast", "fast_bfloat16"]


def fast_bfloat16(device: torch.device | str) -> bool:
    """Whether the device has bfloat16 arithmetic: GPUs, and CPUs with AVX-512 BF16 or AMX. Others only emulate it,
    slower than float32."""
    if torch.device(device).type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """Convolutions and linear layers in bfloat16, on any device; MONAI's engines do so on CUDA alone."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
