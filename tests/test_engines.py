"""OpenVINO gives what PyTorch gives."""

import gc
import importlib.util
import os
import signal

import pytest
import torch
from torch import nn

from scripts.errors import UserError
from scripts.inference.engines import OpenVino, TorchEngine, make_engine
from scripts.inference.inferer import VolumeInferer
from scripts.method.resunet import ResUNet

OPTIONS = {"sw_batch_size": 2, "overlap": 0.25, "mode": "gaussian"}
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


def network(seed):
    torch.manual_seed(seed)
    return ResUNet(1, 4, [4, 4, 8, 8], deep_supervision=1).eval()


def close(found, expected):
    return float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@needs_openvino
@pytest.mark.parametrize(
    ("window", "mirror"), [((16, 16, 16), True), ((24, 32, 16), False), ((24, 32, 16), True), ((40, 40, 40), True)]
)
def test_logits_are_those_of_pytorch_at_every_window_size(window, mirror):
    volume = torch.randn(1, 1, 21, 37, 30, generator=torch.Generator().manual_seed(1))
    engine = OpenVino()
    with torch.no_grad():
        for member in map(network, range(2)):  # of an ensemble
            options = {"roi_size": window, "mirror": mirror, **OPTIONS}
            found, expected = (VolumeInferer(engine=one, **options)(volume, member) for one in (engine, TorchEngine()))
            assert close(found, expected) and not torch.equal(found, expected)  # another program


@needs_openvino
def test_a_network_that_is_given_other_weights_is_converted_again():
    engine, member, window = OpenVino(), network(0), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        before = engine(member, window)
        member.load_state_dict(network(1).state_dict())
        after, expected = engine(member, window), TorchEngine()(member, window)
    assert close(after, expected) and not close(before, expected)


class NotConvertible(nn.Module):
    def forward(self, image):
        if torch.jit.is_tracing():
            raise RuntimeError("no trace of me")
        return torch.cat([image] * 4, dim=1)


@needs_openvino
def test_a_network_that_cannot_be_converted_is_computed_by_pytorch_or_named(caplog):
    member, window = NotConvertible(), torch.randn(1, 1, 16, 16, 16)
    engine = OpenVino()
    assert all(torch.equal(engine(member, window), member(window)) for _ in range(2))
    assert [record.getMessage() for record in caplog.records] == [
        "OpenVINO cannot convert NotConvertible (no trace of me), so PyTorch computes it."
    ]
    with pytest.raises(UserError, match=r"NotConvertible .*no trace of me.*--engine torch"):
        OpenVino(fallback=False)(member, window)


@needs_openvino
def test_a_signal_after_a_prediction_does_not_end_the_process():
    """pytest has faulthandler on, as Jupyter has: with a core for each network, this was a segmentation fault."""
    with torch.no_grad():
        engines = [OpenVino(), OpenVino()]
        for seed in range(2):
            engines[seed](network(seed), torch.randn(1, 1, 16, 16, 16))
    while engines:
        del engines[0]
        gc.collect()
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


@needs_openvino
def test_windows_are_computed_by_the_engine_and_a_volume_in_one_pass_by_pytorch():
    volume, member, engine = torch.randn(1, 1, 16, 16, 16), network(0), OpenVino()
    with torch.no_grad():
        found = VolumeInferer(whole_volume=16**3, engine=engine, roi_size=(16, 16, 16), **OPTIONS)(volume, member)
        assert not engine.converted and close(found, member(volume)[0])


def test_an_engine_is_chosen_by_name(monkeypatch):
    assert type(make_engine("torch")) is TorchEngine
    assert type(make_engine("auto", "cuda")) is TorchEngine
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert type(make_engine("auto")) is TorchEngine
    for options, reason in {
        ("openvino",): "not installed",
        ("openvino", "cuda"): "device is cuda",
        ("x",): "'x'",
    }.items():
        with pytest.raises(UserError, match=reason):
            make_engine(*options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert type(make_engine("auto")) is OpenVino and make_engine("auto", "cpu", True).amp
