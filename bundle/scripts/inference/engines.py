"""Which program computes the networks of a prediction: PyTorch, or OpenVINO, which is faster on CPUs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from scripts.device import autocast, kind
from scripts.errors import UserError
from scripts.inference.exported import ExportedNetwork
from scripts.method.features import logits_list

__all__ = ["ENGINES", "OpenVino", "TorchEngine", "make_engine"]

ENGINES = ("auto", "torch", "openvino")


class TorchEngine:
    """Logits of a batch of windows (B, C, h, w, d) at full resolution, in float32.

    Args:
        amp: let the network compute in bfloat16.
    """

    def __init__(self, amp: bool = False) -> None:
        self.amp = amp

    def __call__(self, network: Callable, windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with autocast(windows.device, self.amp):
            return logits_list(network(windows, *args, **kwargs))[0].float()


class OpenVino(TorchEngine):
    """The same, computed by OpenVINO. Each network is compiled once for each shape of windows, which takes two seconds.

    Exported networks are computed as they are.
    """

    def __init__(self, amp: bool = False) -> None:
        super().__init__(amp)
        self.compiled: dict[tuple[nn.Module, tuple[int, ...]], tuple[int, Any]] = {}  # state of the weights, model

    def __call__(self, network: Callable, windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not isinstance(network, nn.Module) or isinstance(network, ExportedNetwork) or args or kwargs:
            return super().__call__(network, windows, *args, **kwargs)
        windows = windows.as_subclass(torch.Tensor).float().contiguous()
        key = network, tuple(windows.shape)
        state = sum(parameter._version for parameter in network.parameters())  # grows with each change in place
        if self.compiled.get(key, (None,))[0] != state:
            self.compiled[key] = state, self.compile(network, windows)
        logits = self.compiled[key][1](windows.numpy())[0]
        return torch.from_numpy(logits.copy())  # the next call writes to the same memory

    def compile(self, network: nn.Module, windows: torch.Tensor) -> Any:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would report to the web
        import openvino

        # traced here, because OpenVINO would run the network seven times for it
        traced = torch.jit.trace(FirstOutput(network), windows, check_trace=False)
        model = openvino.convert_model(traced, example_input=windows)
        precision = "bf16" if self.amp else "f32"
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        return openvino.Core().compile_model(model, "CPU", options)


class FirstOutput(nn.Module):
    """A network without its outputs at lower resolution."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return logits_list(self.network(image))[0]


def make_engine(engine: str = "auto", device: torch.device | str = "cpu", amp: bool = False) -> TorchEngine:
    """The engine of this name; ``auto`` takes OpenVINO on a CPU where it is installed.

    Raises:
        UserError: if OpenVINO is asked for and is not installed, or the device is no CPU.
    """
    if engine not in ENGINES:
        raise UserError(f"engine is {engine!r}, expected one of {', '.join(ENGINES)}.")
    installed, cpu = importlib.util.find_spec("openvino") is not None, kind(device) == "cpu"
    if engine == "openvino" and not cpu:
        raise UserError(f"engine is openvino, but device is {device}: give --device cpu, or --engine torch.")
    if engine == "openvino" and not installed:
        raise UserError("engine is openvino, which is not installed: pip install 'openvino>=2026,<2027'.")
    return OpenVino(amp) if engine == "openvino" or (engine == "auto" and installed and cpu) else TorchEngine(amp)
