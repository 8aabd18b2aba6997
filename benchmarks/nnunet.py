"""nnU-Net's own prediction command beside ours, on the same T1ce volume, in turns.

python benchmarks/nnunet.py --patients DIR [--work WORK] [--turns 3] [--mirror False]

nnU-Net plans its network from the BraTS patients in DIR (full resolution, T1ce alone). Its weights are random, because
they do not change its speed. It needs the extra `nnunet`.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.command import run_command
from scripts.errors import UserError
from scripts.files import format_table, write_json

BUNDLE = Path(sys.path[0])
LABELS = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}
UNTRAINED = """
import sys, torch
from nnunetv2.run.run_training import get_trainer_from_args
trainer = get_trainer_from_args("1", "3d_fullres", 0, device=torch.device("cpu"))
trainer.initialize()
trainer.save_checkpoint(sys.argv[1])
"""


def compare(patients: str, work: str = "", turns: int = 3, mirror: bool = False) -> None:
    """Print CPU and wall seconds of both commands for the first patient, file to file, imports included.

    Args:
        patients: folder of BraTS patients at 1 mm.
        work: folder for nnU-Net's files; a temporary one if empty.
        turns: how often each command runs.
        mirror: both average over flips: nnU-Net over eight, ours flips each window once. By default neither does.
    """
    cases = sorted({path.parent for path in Path(patients).resolve().glob("*/*_t1ce.nii.gz")})
    if not cases:
        raise UserError(
            f"patients is {patients}, which holds no NAME/NAME_t1ce.nii.gz: give a folder of BraTS patients."
        )
    with TemporaryDirectory() as temporary:
        here = Path(work or temporary).resolve()
        make_model(here, cases)
        (here / "in").mkdir(exist_ok=True)
        image = next(cases[0].glob("*_t1ce.nii.gz"))
        shutil.copy(image, here / "in" / f"{cases[0].name}_0000.nii.gz")
        theirs = ["nnUNetv2_predict", "-i", str(here / "in"), "-o", str(here / "out"), "-d", "1", "-c", "3d_fullres"]
        theirs += ["-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1", *(["--disable_tta"] * (not mirror))]
        ours = [
            sys.executable,
            "-m",
            "scripts",
            "predict",
            "--dataset_dir",
            str(image),
            "--output_dir",
            str(here / "ours"),
        ]
        ours += ["--mirror", str(mirror)]
        times: dict[str, list[tuple[float, float]]] = {"nnU-Net": [], "this bundle": []}
        for _ in range(turns):
            shutil.rmtree(here / "ours", ignore_errors=True)
            times["this bundle"].append(run(ours, here))
            times["nnU-Net"].append(run(theirs, here))
    rows = [[name, *(f"{statistics.median(part):.1f}" for part in zip(*values))] for name, values in times.items()]
    print(format_table([["command", "CPU s", "wall s"], *rows]))


def make_model(work: Path, cases: Sequence[Path]) -> None:
    """nnU-Net's folder of an untrained network, planned by its own command from these patients."""
    raw = work / "raw" / "Dataset001_T1ce"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for case in cases:
        shutil.copy(next(case.glob("*_t1ce.nii.gz")), raw / "imagesTr" / f"{case.name}_0000.nii.gz")
        label = nib.load(next(case.glob("*_seg.nii.gz")))
        voxels = np.asarray(label.dataobj).astype(np.uint8)
        voxels[voxels == 4] = 3
        nib.save(nib.Nifti1Image(voxels, label.affine), raw / "labelsTr" / f"{case.name}.nii.gz")
    described = {"channel_names": {"0": "T1ce"}, "labels": LABELS, "numTraining": len(cases), "file_ending": ".nii.gz"}
    write_json(raw / "dataset.json", described)
    run(["nnUNetv2_plan_and_preprocess", "-d", "1", "-c", "3d_fullres", "-np", "1", "-npfp", "1"], work)
    model = work / "results" / "Dataset001_T1ce" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True, exist_ok=True)
    shutil.copy(raw / "dataset.json", model)
    shutil.copy(work / "preprocessed" / "Dataset001_T1ce" / "nnUNetPlans.json", model / "plans.json")
    run([sys.executable, "-c", UNTRAINED, str(model / "fold_0" / "checkpoint_final.pth")], work)


def run(command: Sequence[str], work: Path) -> tuple[float, float]:
    """CPU and wall seconds of a command, its children included."""
    folders = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **folders, "PATH": path, "nnUNet_compile": "f"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=BUNDLE, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UserError(f"{command[0]} failed:\n{done.stderr or done.stdout}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


if __name__ == "__main__":
    run_command(compare)
