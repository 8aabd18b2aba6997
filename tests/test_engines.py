"""OpenVINO and ONNX Runtime give what PyTorch gives."""

import gc
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from scripts.errors import UserError
from scripts.inference.engines import OnnxRuntime, OpenVino, TorchEngine, make_engine, missing
from scripts.inference.inferer import VolumeInferer
from scripts.method.resunet import ResUNet

OPTIONS = {"sw_batch_size": 2, "overlap": 0.25, "mode": "gaussian"}
needs_openvino = pytest.mark.skipif(missing(OpenVino) != "", reason="openvino is not installed")
needs_onnx = pytest.mark.skipif(missing(OnnxRuntime) != "", reason=f"not installed: {missing(OnnxRuntime)}")
each_engine = pytest.mark.parametrize(
    "engine", [pytest.param(OpenVino, marks=needs_openvino), pytest.param(OnnxRuntime, marks=needs_onnx)]
)


def network(seed):
    torch.manual_seed(seed)
    return ResUNet(1, 4, [4, 4, 8, 8], deep_supervision=1).eval()


def close(found, expected):
    return float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@each_engine
@pytest.mark.parametrize(
    ("window", "mirror"), [((16, 16, 16), True), ((24, 32, 16), False), ((24, 32, 16), True), ((40, 40, 40), True)]
)
def test_logits_are_those_of_pytorch_at_every_window_size(engine, window, mirror):
    volume = torch.randn(1, 1, 21, 37, 30, generator=torch.Generator().manual_seed(1))
    engine = engine()
    with torch.no_grad():
        for member in map(network, range(2)):  # of an ensemble
            options = {"roi_size": window, "mirror": mirror, **OPTIONS}
            found, expected = (VolumeInferer(engine=one, **options)(volume, member) for one in (engine, TorchEngine()))
            assert close(found, expected) and not torch.equal(found, expected)  # another program


@each_engine
@pytest.mark.parametrize("assign", [False, True])
def test_a_network_that_is_given_other_weights_is_converted_again(engine, assign):
    engine, member, window = engine(), network(0), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        before = engine(member, window)
        member.load_state_dict(network(1).state_dict(), assign=assign)
        after, expected = engine(member, window), TorchEngine()(member, window)
    assert close(after, expected) and not close(before, expected)


class NotConvertible(nn.Module):
    def forward(self, image):
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise RuntimeError("no trace of me")
        return torch.cat([image] * 4, dim=1)


@each_engine
def test_a_network_that_cannot_be_converted_is_computed_by_pytorch_or_named(engine, caplog):
    member, window, strict = NotConvertible(), torch.randn(1, 1, 16, 16, 16), engine()
    engine = engine(fallback=True)
    assert all(torch.equal(engine(member, window), member(window)) for _ in range(2))
    assert [record.getMessage() for record in caplog.records if record.name.startswith("scripts")] == [
        f"{engine.program} cannot convert NotConvertible (no trace of me), so PyTorch computes it."
    ]
    with pytest.raises(UserError, match=r"NotConvertible .*no trace of me.*--engine torch"):
        strict(member, window)


@each_engine
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the threads of a process are seen on Linux alone")
def test_threads_may_run_on_every_core(engine):
    """Threads bound to a core meet those of PyTorch there, and those of other processes."""
    engine, member, windows, seen = engine(), network(0), torch.randn(4, 1, 48, 48, 48), set()
    engine(member, windows[:1])  # converted before
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(engine, member, windows)
        while not work.done():
            for thread in os.listdir("/proc/self/task"):
                with suppress(ProcessLookupError):  # it has ended
                    seen.add(frozenset(os.sched_getaffinity(int(thread))))
    assert seen == {frozenset(os.sched_getaffinity(0))}


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
        ("onnx",): "pip install onnx onnxruntime onnxscript",
        ("x",): "'x'",
    }.items():
        with pytest.raises(UserError, match=reason):
            make_engine(*options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert type(make_engine("auto")) is OpenVino and make_engine("auto", "cpu", True).amp
    assert type(make_engine("onnx")) is OnnxRuntime and not make_engine("onnx", "cpu", True).amp
