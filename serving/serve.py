"""A MONAI Label server with this bundle, for 3D Slicer and OHIF: `make label STUDIES=DIR`, in its own environment.

python serving/serve.py --studies DIR [--port 8000] [--host 127.0.0.1] [--app serving/app]

The app's folder gets a copy of the bundle, so training from Slicer changes the copy's weights and not the shipped ones;
remove the folder to start from scratch. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
NAME = "brats_t1ce_kd_segmentation"  # by "segmentation" MONAI Label knows what kind of model it is


def stage(app: Path) -> None:
    """MONAI Label's app for bundles with a copy of this one in it; weights that are there already are kept."""
    if not (app / "main.py").is_file():
        download = ["apps", "--download", "--name", "monaibundle", "--output", str(app.parent / "downloaded")]
        subprocess.run([sys.executable, "-m", "monailabel.main", *download], check=True, stdout=subprocess.DEVNULL)
        app.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(app.parent / "downloaded" / "monaibundle", app)
        (app.parent / "downloaded").rmdir()
    target = app / "model" / NAME
    trained = (target / "models" / "model.pt").is_file()
    leave = shutil.ignore_patterns("__pycache__", "eval", *(["models"] if trained else []))
    shutil.copytree(HERE.parent / "bundle", target, ignore=leave, dirs_exist_ok=True)
    add_check(target / "configs" / "inference.yaml")


def add_check(config: Path) -> None:
    """Let the copy check each image after it is read, as inference does by a data set that the server does not use."""
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    check = {"_target_": "scripts.inference.predictor.CheckImaged", "keys": "@image_keys"}
    document["preprocessing"]["transforms"].insert(1, check)
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def check_studies(studies: str) -> None:
    """Stop with a sentence unless ``studies`` is a DICOMweb address, or a folder with volumes of its own."""
    advice = "give a folder of T1ce volumes, NAME.nii.gz: make label STUDIES=DIR"
    if studies.startswith(("http://", "https://")):
        return
    folder = Path(studies).expanduser()
    if not studies or not folder.is_dir():
        sys.exit(f"STUDIES is {studies!r}, which is no folder: {advice}")
    if not any(path.name.endswith((".nii.gz", ".nii")) for path in folder.iterdir()):
        within = next(folder.rglob("*.nii*"), None)
        where = f"only in folders below ({within.relative_to(folder)})" if within else "nor do folders below"
        sys.exit(
            f"STUDIES is {studies!r}, which holds no volume itself, {where}. Link the T1ce volumes into one "
            f"folder, which also gets the labels; {advice}"
        )


def main() -> None:
    """Stage the app, then become the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--studies", required=True, help="folder of T1ce volumes (labels go to its labels/final), or DICOMweb"
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--app", default=str(HERE / "app"))
    options = parser.parse_args()
    check_studies(options.studies)
    if options.host in ("127.0.0.1", "localhost", "::1"):
        print("Only this machine reaches the server. --host 0.0.0.0 opens it to every machine, without a password.")
    stage(Path(options.app).resolve())
    server = ["start_server", "--app", options.app, "--studies", options.studies, "--host", options.host]
    # any zoo_source but the default takes the bundle as it is; sam2 would download weights
    conf = ["--conf", "models", NAME, "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
    arguments = [sys.executable, "-W", "ignore", "-m", "monailabel.main", *server, "--port", str(options.port), *conf]
    # glibc keeps freed memory for the next request, as scripts/device.py tells it for the command line
    keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    os.execve(sys.executable, arguments, keep | dict(os.environ) | {"PYTHONPATH": str(HERE)})


if __name__ == "__main__":
    main()
