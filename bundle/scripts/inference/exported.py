"""Students exported by MONAI's ckpt_export (TorchScript) or onnx_export, which take the place of the network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn

from scripts.errors import UserError, reason_of


def is_exported(path: str) -> bool:
    """Whether a file of weights is a whole network: ``.ts`` (TorchScript) or ``.onnx``."""
    return Path(path).suffix in (".ts", ".onnx")


def load_exported(path: str, device: torch.device) -> nn.Module:
    """An exported network, which computes in float32. Shapes: (B, C, H, W, D) -> logits (B, K, H, W, D).

    Raises:
        UserError: if the file cannot be read or is not what its name says, or onnxruntime is not installed.
    """
    if Path(path).suffix == ".onnx" and importlib.util.find_spec("onnxruntime") is None:
        raise UserError(f"ckpt_path is {path}, but onnxruntime is not installed: pip install onnxruntime.")
    try:
        return ScriptedNetwork(path, device) if Path(path).suffix == ".ts" else OnnxNetwork(path, device)
    except Exception as error:  # both libraries fail in many ways
        raise UserError(f"ckpt_path {path} cannot be loaded ({reason_of(error, -1)}): export it again.") from error


class ExportedNetwork(nn.Module):
    """A network from a file that holds its computation too."""


class ScriptedNetwork(ExportedNetwork):
    """A TorchScript file."""

    def __init__(self, path: str, device: torch.device) -> None:
        super().__init__()
        self.network = torch.jit.load(path, map_location=device)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(image.device.type, enabled=False):
            return self.network(image.float())


class OnnxNetwork(ExportedNetwork):
    """An ONNX model, run by onnxruntime: on the GPU if onnxruntime can use it, else on the CPU.

    Args:
        model: its file, or its bytes.
        device: to compute on.
    """

    def __init__(self, model: str | bytes, device: torch.device) -> None:
        super().__init__()
        import onnxruntime

        wanted = ["CUDAExecutionProvider"] if torch.device(device).type == "cuda" else []
        providers = [
            name for name in (*wanted, "CPUExecutionProvider") if name in onnxruntime.get_available_providers()
        ]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(model, options, providers=providers)
        self.name = self.session.get_inputs()[0].name

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        values = image.as_subclass(torch.Tensor).float().contiguous().cpu().numpy()
        return torch.from_numpy(self.session.run(None, {self.name: values})[0]).to(image.device)
