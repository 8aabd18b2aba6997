"""Which program computes the networks of a prediction: PyTorch, or OpenVINO, which is faster on CPUs."""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from scripts.device import autocast, kind
from scripts.errors import UserError, reason_of
from scripts.inference.exported import ExportedNetwork
from scripts.method.features import logits_list

__all__ = ["ENGINES", "OpenVino", "TorchEngine", "make_engine"]

logger = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "openvino")


class TorchEngine:
    """Logits of a batch of windows (B, C, h, w, d) at full resolution, in float32.

    Args:
        amp: let the network compute in bfloat16.
    """

    name = "torch"

    def __init__(self, amp: bool = False) -> None:
        self.amp = amp

    def __call__(self, network: Callable, windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with autocast(windows.device, self.amp):
            return logits_list(network(windows, *args, **kwargs))[0].float()


class OpenVino(TorchEngine):
    """The same, computed by OpenVINO, one window at a time.

    A network is converted for the size of the windows, which takes a second, and again if its weights change. Exported
    networks are computed as they are.

    Args:
        amp: let the network compute in bfloat16.
        fallback: let PyTorch compute a network that cannot be converted, with a warning.

    Raises:
        UserError: without ``fallback``, for such a network.
    """

    name = "openvino"

    def __init__(self, amp: bool = False, fallback: bool = True) -> None:
        super().__init__(amp)
        self.fallback = fallback
        self.converted: dict[nn.Module, tuple[object, Any]] = {}  # of each network what it was made for, and the model

    def __call__(self, network: Callable, windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not isinstance(network, nn.Module) or isinstance(network, ExportedNetwork) or args or kwargs:
            return super().__call__(network, windows, *args, **kwargs)
        windows = windows.as_subclass(torch.Tensor).float().contiguous()
        tensors = network.state_dict(keep_vars=True).values()
        made_for = windows.shape[1:], sum(tensor._version for tensor in tensors)  # which each change in place raises
        if self.converted.get(network, (None,))[0] != made_for:
            self.converted[network] = made_for, self.convert_or_warn(network, windows[:1])
        if (model := self.converted[network][1]) is None:
            return super().__call__(network, windows)
        return torch.cat([torch.from_numpy(model(window.numpy())[0].copy()) for window in windows.split(1)])

    def convert_or_warn(self, network: nn.Module, window: torch.Tensor) -> Any:
        """The converted network, or None if it cannot be converted."""
        try:
            return self.convert(network, window)
        except Exception as error:  # tracing and OpenVINO fail in many ways
            reason = f"OpenVINO cannot convert {type(network).__name__} ({reason_of(error)})"
            if not self.fallback:
                raise UserError(f"engine is openvino, but {reason}: give --engine torch.") from error
            logger.warning(f"{reason}, so PyTorch computes it.")
            return None

    def convert(self, network: nn.Module, window: torch.Tensor) -> Any:
        openvino, core = load_openvino()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other sizes of window may need another trace: they get one
            # traced here, because OpenVINO would run the network seven times for it
            traced = torch.jit.trace(FirstOutput(network), window, check_trace=False)
        model = openvino.convert_model(traced, example_input=window)
        precision = "bf16" if self.amp else "f32"
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        return core.compile_model(model, "CPU", options)


@functools.cache
def load_openvino() -> tuple[Any, Any]:
    """OpenVINO and its core, one for the whole process.

    With a core for each network, OpenVINO 2026.4 would leave a stack for signals that is gone, if there was one before
    (faulthandler, as in pytest and Jupyter): the next signal would then be a segmentation fault.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would report to the web
    import openvino

    return openvino, openvino.Core()


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
        raise UserError("engine is openvino, which is not installed: pip install openvino.")
    if engine == "torch" or not (installed and cpu):
        return TorchEngine(amp)
    return OpenVino(amp, fallback=engine == "auto")
