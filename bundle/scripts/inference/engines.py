"""Which program computes the networks of a prediction: PyTorch, or on CPUs OpenVINO, the fastest, or ONNX Runtime."""

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
from scripts.errors import UserError, reason_of, root_of
from scripts.inference.exported import ExportedNetwork, OnnxNetwork
from scripts.method.features import logits_list

logger = logging.getLogger(__name__)

Converted = Callable[[torch.Tensor], torch.Tensor]


class TorchEngine:
    """Logits of a batch of windows (B, C, h, w, d) at full resolution, in float32.

    Args:
        amp: let the network compute in bfloat16.
    """

    name = "torch"
    packages: tuple[str, ...] = ()

    def __init__(self, amp: bool = False) -> None:
        self.amp = amp

    def __call__(self, network: Callable, windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with autocast(windows.device, self.amp):
            return logits_list(network(windows, *args, **kwargs))[0].float()


class ConvertingEngine(TorchEngine):
    """The same, computed by another program, one window at a time.

    A network is converted for the size of the windows, which takes some seconds, and again if its weights change.
    Exported networks are computed as they are.

    Args:
        amp: let the network compute in bfloat16.
        fallback: let PyTorch compute a network that cannot be converted, with a warning.

    Raises:
        UserError: without ``fallback``, for such a network.
    """

    program: str  # its name in messages

    def __init__(self, amp: bool = False, fallback: bool = False) -> None:
        super().__init__(amp)
        self.fallback = fallback
        self.converted: dict[nn.Module, tuple[object, Any]] = {}  # of each network what it was made for, and the model

    def __call__(self, network: Callable, windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not isinstance(network, nn.Module) or isinstance(network, ExportedNetwork) or args or kwargs:
            return super().__call__(network, windows, *args, **kwargs)
        windows = windows.as_subclass(torch.Tensor).float().contiguous()
        tensors = network.state_dict(keep_vars=True).values()
        # a change in place raises the version, another tensor lies elsewhere
        made_for = windows.shape[1:], [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if self.converted.get(network, (None,))[0] != made_for:
            self.converted[network] = made_for, self.convert_or_warn(network, windows[:1])
        if (model := self.converted[network][1]) is None:
            return super().__call__(network, windows)
        return torch.cat([model(window) for window in windows.split(1)])

    def convert_or_warn(self, network: nn.Module, window: torch.Tensor) -> Converted | None:
        """The converted network, or None if it cannot be converted."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that other sizes of window may need another trace: they get one
                return self.convert(FirstOutput(network).train(network.training), window)
        except Exception as error:  # tracing and the programs fail in many ways
            reason = f"{self.program} cannot convert {type(network).__name__} ({reason_of(root_of(error))})"
            if not self.fallback:
                raise UserError(f"engine is {self.name}, but {reason}: give --engine torch.") from error
            logger.warning(f"{reason}, so PyTorch computes it.")
            return None

    def convert(self, network: nn.Module, window: torch.Tensor) -> Converted:
        """What computes windows of this size. Shapes: (1, C, h, w, d) -> (1, K, h, w, d)."""
        raise NotImplementedError


class OpenVino(ConvertingEngine):
    """ConvertingEngine with OpenVINO, on CPUs."""

    name, packages, program = "openvino", ("openvino",), "OpenVINO"

    def convert(self, network: nn.Module, window: torch.Tensor) -> Converted:
        openvino, core = load_openvino()
        # traced here, because OpenVINO would run the network seven times for it
        traced = torch.jit.trace(network, window, check_trace=False)
        model = openvino.convert_model(traced, example_input=window)
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.amp else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # else processes of one thread each share the first core
        }
        compiled = core.compile_model(model, "CPU", options)
        return lambda one: torch.from_numpy(compiled(one.numpy())[0].copy())


class OnnxRuntime(ConvertingEngine):
    """ConvertingEngine with ONNX Runtime, on CPUs, in float32: it has no bfloat16 there."""

    name, packages, program = "onnx", ("onnx", "onnxruntime", "onnxscript"), "ONNX Runtime"

    def __init__(self, amp: bool = False, fallback: bool = False) -> None:
        super().__init__(False, fallback)
        if amp:
            logger.info("ONNX Runtime computes in float32: amp has no effect.")

    def convert(self, network: nn.Module, window: torch.Tensor) -> Converted:
        logging.getLogger("onnx_ir").setLevel(logging.WARNING)
        # ONNX Runtime optimizes it
        exported = torch.onnx.export(network, (window,), dynamo=True, verbose=False, optimize=False)
        assert exported is not None  # the older exporter alone gives None
        return OnnxNetwork(exported.model_proto.SerializeToString(), window.device)


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


ENGINES: dict[str, type[TorchEngine]] = {engine.name: engine for engine in (TorchEngine, OpenVino, OnnxRuntime)}


def make_engine(engine: str = "auto", device: torch.device | str = "cpu", amp: bool = False) -> TorchEngine:
    """The engine of this name; ``auto`` takes OpenVINO on a CPU where it is installed.

    Raises:
        UserError: if there is no such engine, its packages are not installed, or it needs a CPU and the device is none.
    """
    if engine not in ("auto", *ENGINES):
        raise UserError(f"engine is {engine!r}, expected one of {', '.join(('auto', *ENGINES))}.")
    cpu = kind(device) == "cpu"
    if engine == "auto":
        return OpenVino(amp, fallback=True) if cpu and not missing(OpenVino) else TorchEngine(amp)
    chosen = ENGINES[engine]
    if chosen is not TorchEngine and not cpu:
        raise UserError(f"engine is {engine}, but device is {device}: give --device cpu, or --engine torch.")
    if packages := missing(chosen):
        raise UserError(f"engine is {engine}, which needs packages that are not installed: pip install {packages}.")
    return chosen(amp)


def missing(engine: type[TorchEngine]) -> str:
    """The packages of an engine that are not installed."""
    return " ".join(package for package in engine.packages if importlib.util.find_spec(package) is None)
