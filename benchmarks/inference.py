"""One T1ce patient from file to file: the student as shipped, other widths of it, and the networks people use instead.

All run inference.yaml; peers get its crop to the brain, its bfloat16 and its allocator too, but work at the patient's
own spacing, as they do at home, and in PyTorch. The student as shipped is mirrored, by every engine. All others are
not, and have random weights: as these see tumour everywhere, their last step takes 0.1 to 0.2 s more. On a CPU
SwinUNETR runs in float32, which is faster for it, and DynUNet is not channels last. ONNX Runtime has no bfloat16.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch.utils.flop_counter import FlopCounterMode

from measure import interleave, show, timed
from scripts.device import keep_freed_memory
from scripts.files import format_table
from scripts.inference.checked_images import CheckedImages
from scripts.inference.engines import ConvertingEngine, OnnxRuntime, missing
from scripts.inference.predictor import load_members, make_members

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
ONCE = {"mirror": False, "engine": "torch"}
NATIVE = {**ONCE, "spacing": None, "window_size": [128, 128, 128], "overlap": 0.5, "whole_volume": 0}
PEERS = {
    "SegResNet 16 (zoo brats_mri_segmentation)": {
        "_target_": "SegResNet",
        "in_channels": 1,
        "out_channels": 4,
        "init_filters": 16,
        "blocks_down": [1, 2, 2, 4],
        "blocks_up": [1, 1, 1],
    },
    "DynUNet 32-320 (nnU-Net)": {
        "_target_": "DynUNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 4,
        "kernel_size": [3] * 6,
        "strides": [1, 2, 2, 2, 2, 2],
        "upsample_kernel_size": [2] * 5,
        "filters": [32, 64, 128, 256, 320, 320],
    },
    "SwinUNETR 24": {"_target_": "SwinUNETR", "in_channels": 1, "out_channels": 4, "feature_size": 24},
}
FASTER_ON_CPU = {  # DynUNet took 159 s channels last on AVX2 where it had 102; SwinUNETR's layout was not tried
    "DynUNet 32-320 (nnU-Net)": {"channels_last": False},
    "SwinUNETR 24": {"channels_last": False, "amp": False},
}
WIDTHS = {f"student {w}-{8 * w}": {**ONCE, "student_widths": [w, 2 * w, 4 * w, 8 * w]} for w in (8, 16, 24, 32)}
STAGES = ("read", "preprocess", "network", "postprocess", "write")


def inference(dataset_dir: str, repeats: int) -> dict[str, Any]:
    """The first patient of the folder; without a warm-up round, as a user meets it."""
    image = str(sorted(Path(dataset_dir).glob("*/*_t1ce.nii.gz"))[0])
    contenders: dict[str, Mapping[str, Any]] = {"student as shipped": {}, "the same in PyTorch": {"engine": "torch"}}
    if not missing(OnnxRuntime) and not torch.cuda.is_available():
        contenders["the same in ONNX Runtime"] = {"engine": "onnx"}
    contenders |= WIDTHS
    contenders |= {name: {**NATIVE, "network_def": network} for name, network in PEERS.items()}
    if not torch.cuda.is_available():
        contenders |= {name: {**contenders[name], **options} for name, options in FASTER_ON_CPU.items()}
    with tempfile.TemporaryDirectory() as folder:
        patients = {name: Patient(image, folder, options) for name, options in contenders.items()}
        seconds, memory = interleave(patients, repeats, warm_up=0)
    report = show("One patient, file to file", seconds, memory, "student as shipped")
    rows = [["", "parameters", "GFLOP", *(f"{stage} s" for stage in STAGES)]]
    for name, patient in patients.items():
        stages = {stage: float(np.median([turn[stage] for turn in patient.turns])) for stage in STAGES}
        report["results"][name] |= {"parameters": patient.parameters, "gflop": patient.gflop, "stages": stages}
        shares = [f"{stages[stage]:.2f}" for stage in STAGES]
        rows.append([name, f"{patient.parameters:,}", f"{patient.gflop:.0f}" if patient.gflop else "", *shares])
    print(f"\n{format_table(rows)}", flush=True)
    return report


def shipped_memory(dataset_dir: str) -> dict[str, Any]:
    """The same patient by the student as shipped, once; call it in a process of its own, which starts with nothing."""
    image = str(sorted(Path(dataset_dir).glob("*/*_t1ce.nii.gz"))[0])
    with tempfile.TemporaryDirectory() as folder:
        seconds, peak = timed(Patient(image, folder, {}))
    title = "One patient, student as shipped, in a process of its own"
    print(f"\n{title}: peak {peak:.1f} GiB, {seconds:.1f} s", flush=True)
    return {"title": title, "peak_gib": peak, "seconds": seconds}


class Patient:
    """Calls go from the file to a label map on disk; ``turns`` holds the seconds of the stages of each."""

    def __init__(self, image: str, output_dir: str, options: Mapping[str, Any]) -> None:
        parser = ConfigParser()
        parser.read_config(str(BUNDLE / "configs" / "inference.yaml"))
        parser.update({"bundle_root": str(BUNDLE), "output_dir": output_dir, **options})
        self.image = image
        self.device = parser.get_parsed_content("device")
        keep_freed_memory(self.device)
        network, layout = parser.get_parsed_content("network_def"), parser.get_parsed_content("channels_last")
        (self.network,) = make_members(network, "", self.device, layout)
        self.network.eval()
        if "network_def" not in options and "student_widths" not in options:
            load_members([self.network], parser.get_parsed_content("ckpt_path"))
        self.inferer = parser.get_parsed_content("inferer")
        preprocessing = parser.get_parsed_content("preprocessing")
        self.before = [CheckedImages([], preprocessing).read, *preprocessing.transforms[1:]]
        self.after = parser.get_parsed_content("postprocessing").transforms
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.gflop = 0.0
        self.turns: list[dict[str, float]] = []

    @torch.no_grad()
    def __call__(self) -> None:
        turn = dict.fromkeys(STAGES, 0.0)
        data: Any = {"image": self.image}
        for index, transform in enumerate(self.before):
            data = self.clocked(turn, "preprocess" if index else "read", transform, data)
        data["image"] = self.clocked(turn, "preprocess", data["image"].to, self.device)
        volume = data["image"][None]
        if self.turns or isinstance(self.inferer.engine, ConvertingEngine):
            logits = self.clocked(turn, "network", self.inferer, volume, self.network)
        else:
            with FlopCounterMode(display=False) as counter:
                logits = self.clocked(turn, "network", self.inferer, volume, self.network)
            self.gflop = counter.get_total_flops() / 1e9
        data["pred"] = logits[0]
        for transform in self.after:
            stage = "write" if type(transform).__name__ == "SaveImaged" else "postprocess"
            data = self.clocked(turn, stage, transform, data)
        self.turns.append(turn)

    def clocked(self, turn: dict[str, float], stage: str, call: Callable, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = call(*arguments)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        turn[stage] += time.perf_counter() - start
        return result
