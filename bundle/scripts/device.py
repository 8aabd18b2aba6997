"""How to compute fast on a device: bfloat16, memory layout, and keeping freed memory."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Sequence

import ignite.distributed as idist
import torch
from monai.utils import set_determinism
from torch import nn

from scripts.errors import UserError

logger = logging.getLogger(__name__)

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt(3), by number in malloc.h
LARGEST = 2**31 - 1
LEAST_PATCH = 24  # voxels a side: with 16, PyTorch's CPU gradients are sometimes wrong (docs/speed.md)


def fast_bfloat16(device: torch.device | str, patch: Sequence[int] = ()) -> bool:
    """Whether bfloat16 is faster: on GPUs since Ampere, and on CPUs with AVX-512 BF16 or AMX. Others emulate it.

    Args:
        device: device of the networks.
        patch: (H, W, D) of training, in voxels. On CPUs small patches stay in float32.
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
    """Warn if bfloat16 was asked for and is slow or wrong on this device. Arguments as for ``fast_bfloat16``."""
    if amp and not fast_bfloat16(device, patch):
        fault = f"can be wrong in patches of {list(patch)}" if fast_bfloat16(device) else "only emulates bfloat16"
        logger.warning(f"amp is True, but {device} {fault}: leave --amp out, then it is on where it is faster.")


def fast_channels_last(device: torch.device | str, amp: bool, training: bool = False) -> bool:
    """Whether this layout is faster: on CPUs to train, and to predict in float32; not on an H100 (docs/speed.md)."""
    return kind(device) == "cpu" and (training or not amp)


def kind(device: torch.device | str) -> str:
    """The type of a device, such as cpu or cuda. Whether it exists is checked with the settings."""
    return str(device).split(":")[0]


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """A context in which convolutions and linear layers use bfloat16, on any device; MONAI's engines need CUDA."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def lay_channels_last(network: nn.Module) -> None:
    """Change the weights of 3-D convolutions to the channels-last layout, which activations then follow.

    Kernels of one voxel are the same in both layouts. They are not changed, because DDP would warn of gradients with
    other strides.
    """
    for parameter in network.parameters():
        if parameter.ndim == 5 and parameter[0, 0].numel() > 1:
            last = torch.empty_like(parameter.data, memory_format=torch.channels_last_3d)  # of one channel, too
            parameter.data = last.copy_(parameter.data)


def keep_freed_memory(device: torch.device | str) -> None:
    """Keep memory that tensors on a CPU free for the next tensors, until the process ends.

    glibc returns large blocks to the system at once, and the system fills each page with zeros before it gives it out
    again. This costs a quarter to two fifths of the time of a step or a patient, and saves a tenth to a third of the
    memory (docs/speed.md).

    Args:
        device: device of the networks. Nothing is done for other devices than CPUs, where PyTorch itself keeps freed
            memory, or if the C library has no such parameters.
    """
    if kind(device) == "cpu" and sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, LARGEST)


def prepare_device(device: torch.device | str, amp: bool, patch: Sequence[int] = ()) -> None:
    """Prepare the device once at the start of a run. Arguments as for ``fast_bfloat16``.

    Raises:
        UserError: if several processes would have their networks on another kind of device, which Ignite chooses.
    """
    if idist.get_world_size() > 1 and (own := torch.device(device).type) != idist.device().type:
        raise UserError(
            f"device is {own}, but several processes train on {idist.device().type}: leave it out, or hide the GPUs "
            "(CUDA_VISIBLE_DEVICES=)."
        )
    warn_of_amp(amp, device, patch)
    keep_freed_memory(device)


def seed_everything(seed: int, deterministic: bool = True) -> None:
    """Seed Python, NumPy and PyTorch, and choose how cuDNN finds its kernels on GPUs.

    Args:
        seed: at least 0.
        deterministic: kernels that give the same each time. False lets cuDNN time its kernels for each shape and take
            the fastest (autotuning): a run is then not repeated bit for bit on a GPU. CPUs give the same either way.
    """
    set_determinism(seed)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
