"""How a device computes: bfloat16 where the hardware has it and near float32, memory layout, freed memory."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import BUNDLE
from scripts.device import autocast, fast_bfloat16, fast_channels_last, seed_everything, warn_of_amp
from scripts.inference.inferer import VolumeInferer
from scripts.method.distillation import DistillationNetwork
from scripts.method.losses import SegmentationLoss
from scripts.method.resunet import ResUNet
from scripts.method.teachers import Teacher


@pytest.mark.parametrize("supported", [True, False])
def test_gpus_that_only_emulate_it_are_left_in_float32(supported, monkeypatch):
    """A mock of a GPU before Ampere, and of a later one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert fast_bfloat16("cuda:1", [16, 16, 16]) == fast_bfloat16(torch.device("cuda")) == supported


def test_cpus_have_it_as_their_flags_say():
    flags = Path("/proc/cpuinfo")
    if not flags.is_file():
        pytest.skip("no /proc/cpuinfo to compare with")
    words = set(flags.read_text().split())
    assert fast_bfloat16("cpu") == fast_bfloat16("cpu", [24, 64, 64]) == bool(words & {"avx512_bf16", "amx_bf16"})


def test_patches_too_small_for_it_on_a_cpu_are_left_in_float32():
    assert not fast_bfloat16("cpu", [64, 64, 16])


def test_channels_last_is_for_cpus_in_float32_and_for_training():
    chosen = [(device, amp) for device in ("cpu", "cuda:0") for amp in (False, True) if fast_channels_last(device, amp)]
    assert chosen == [("cpu", False)]
    assert fast_channels_last("cpu", True, training=True) and not fast_channels_last("cuda:0", True, training=True)


def test_a_device_that_does_not_exist_is_left_for_the_check_of_settings():
    assert (fast_channels_last("foo", False), fast_bfloat16("foo")) == (False, True)


def test_bfloat16_in_small_patches_on_a_cpu_is_warned_of(caplog):
    warn_of_amp(False, "cpu", [16, 16, 16])
    assert not caplog.records
    warn_of_amp(True, "cpu", [16, 16, 16])
    assert len(caplog.records) == 1 and "--amp" in caplog.text


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_concerns_convolutions(enabled):
    conv, x = torch.nn.Conv3d(1, 2, 1), torch.rand(1, 1, 4, 4, 4)
    with autocast(x.device, enabled):
        assert conv(x).dtype == (torch.bfloat16 if enabled else torch.float32)


def gradients(amp):
    torch.manual_seed(0)
    teachers = {"flair": Teacher(ResUNet(widths=(4, 8, 8, 16)), ["flair"])}
    model = DistillationNetwork(ResUNet(widths=(4, 8, 8, 16)), teachers, amp=amp).train()
    image, flair = torch.rand(2, 2, 1, 24, 24, 24)  # with 16³ the fault that scaling.md tells of shows now and then
    output = model(image, flair=flair)
    label = torch.randint(0, 4, (2, 1, 24, 24, 24))
    loss = SegmentationLoss()(output.student[0], label) + SegmentationLoss()(output.teachers["flair"], label)
    loss.backward()
    assert loss.dtype == torch.float32
    return output.student[0].dtype, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_training_gradients_are_near_those_of_float32():
    (half, near), (full, exact) = gradients(True), gradients(False)
    assert (half, full) == (torch.bfloat16, torch.float32)
    assert near.dtype == torch.float32
    difference = (near - exact).norm() / exact.norm()
    assert 0 < difference < 0.05


def test_windows_are_blended_in_float32():
    torch.manual_seed(0)
    network, volume = ResUNet(widths=(4, 8, 8, 16)).eval(), torch.rand(1, 1, 24, 20, 16)
    options = {"roi_size": [16, 16, 16], "overlap": 0.5, "mode": "gaussian"}
    with torch.no_grad():
        near, exact = (VolumeInferer(amp=amp, **options)(volume, network) for amp in (True, False))
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.05 * exact.abs().max()


PROGRAM = """
import os, torch
from scripts.device import keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1])
keep_freed_memory({device!r})
before = resident()
torch.ones(2**26)  # 256 MiB, freed at once
print((resident() - before) * os.sysconf("SC_PAGE_SIZE") / 2**20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
@pytest.mark.parametrize("device, kept", [("cpu", True), ("cuda:0", False)])
def test_freed_memory_of_tensors_on_a_cpu_stays_with_the_process(device, kept):
    program = PROGRAM.format(device=device)
    found = subprocess.run([sys.executable, "-c", program], cwd=BUNDLE, capture_output=True, text=True, check=True)
    assert (float(found.stdout) > 200) == kept


@pytest.mark.parametrize("deterministic", [True, False])
def test_cudnn_tries_kernels_only_where_runs_need_not_repeat(deterministic, monkeypatch):
    """Also where the seed is set again."""
    for flag in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, flag, getattr(torch.backends.cudnn, flag))
    drawn = []
    for _ in range(2):
        seed_everything(3, deterministic)
        drawn.append(torch.rand(4))
        assert torch.backends.cudnn.deterministic == deterministic
        assert torch.backends.cudnn.benchmark != deterministic
        seed_everything(3)
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert torch.equal(*drawn)
