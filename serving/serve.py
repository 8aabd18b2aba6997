"""A MONAI Label server with this bundle, for 3D Slicer and OHIF: `make label STUDIES=DIR`, in its own environment.

python serving/serve.py --studies DIR [--labels DIR] [--port 8000] [--host 127.0.0.1] [--app serving/app]

The app's folder gets a copy of the bundle, so training from Slicer changes the copy's weights and not the shipped ones;
remove the folder to start from scratch. The patients' folder is only read: the server works in a folder of links to its
T1ce volumes, which also gets the labels. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "bundle"
NAME = "brats_t1ce_kd_segmentation"  # by "segmentation" MONAI Label knows what kind of model it is
ENDINGS = (".nii.gz", ".nii")


def stage(app: Path) -> None:
    """MONAI Label's app for bundles with a copy of this one in it; weights that are there already are kept."""
    theirs = app / "bundle_app.py"
    if not theirs.is_file():
        if not (app / "main.py").is_file():
            download = ["apps", "--download", "--name", "monaibundle", "--output", str(app.parent / "downloaded")]
            subprocess.run([sys.executable, "-m", "monailabel.main", *download], check=True, stdout=subprocess.DEVNULL)
            app.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(app.parent / "downloaded" / "monaibundle", app)
            (app.parent / "downloaded").rmdir()
        (app / "main.py").rename(theirs)
    shutil.copy(HERE / "label_app.py", app / "main.py")
    target = app / "model" / NAME
    trained = (target / "models" / "model.pt").is_file()
    leave = shutil.ignore_patterns("__pycache__", "eval", *(["models"] if trained else []))
    shutil.copytree(BUNDLE, target, ignore=leave, dirs_exist_ok=True)
    add_check(target / "configs" / "inference.yaml")


def add_check(config: Path) -> None:
    """Let the copy check each image after it is read, as inference does by a data set that the server does not use."""
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    check = {"_target_": "scripts.inference.checked_images.CheckImaged", "keys": "@image_keys"}
    document["preprocessing"]["transforms"].insert(1, check)
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def find_studies(studies: str) -> list[dict[str, Any]]:
    """T1ce volume and name of each patient, found as ``predict`` finds them. Ends with a sentence if there is none."""
    if not studies or not Path(studies).is_dir():
        sys.exit(f"STUDIES is {studies!r}, which is no folder: give a folder of patients: make label STUDIES=DIR")
    if Path(studies, "labels", "final").is_dir():  # of an earlier server, which took volumes of the folder itself only
        volumes = [path for path in sorted(Path(studies).iterdir()) if path.name.endswith(ENDINGS)]
        return [{"image": str(path), "case": path.name.removesuffix(ending(path))} for path in volumes]
    sys.path.insert(0, str(BUNDLE))
    from scripts.errors import UserError
    from scripts.folders.cases import find_images

    try:
        return find_images(studies)
    except UserError as error:
        sys.exit(f"STUDIES is {studies!r}: {error}")


def ending(path: Path) -> str:
    """.nii.gz or .nii"""
    return next(ending for ending in ENDINGS if path.name.endswith(ending))


def view(studies: str, labels: str) -> Path:
    """The folder that the server works in: links to the T1ce volumes, by the patients' names.

    Args:
        studies: folder of the patients.
        labels: that folder; by default one in serving/studies. The same as ``studies`` writes there, without links.
    """
    source = Path(studies).expanduser().resolve()
    images = find_studies(str(source))
    name = f"{source.name}_{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    folder = Path(labels).expanduser().resolve() if labels else HERE / "studies" / name
    if folder == source:
        if far := [image["image"] for image in images if Path(image["image"]).parent != source]:
            sys.exit(
                f"LABELS is {labels!r}, where MONAI Label finds no patient in a folder below ({far[0]}): leave it out."
            )
        return folder
    if source in folder.parents or folder in source.parents:
        sys.exit(f"LABELS is {labels!r}, expected STUDIES itself or a folder apart from it ({studies}).")
    folder.mkdir(parents=True, exist_ok=True)
    for link in filter(Path.is_symlink, folder.iterdir()):
        link.unlink()  # of an earlier start; labels and uploaded volumes stay
    for image in images:
        path = Path(image["image"])
        (folder / f"{image['case']}{ending(path)}").symlink_to(path.resolve())
    if any(source.glob("labels/final/*")):
        print(f"{source}/labels/final holds labels, which are not used: LABELS={studies} goes on there.")
    return folder


def tell(options: argparse.Namespace, folder: Path | None) -> None:
    """Say what starts, where labels go and who reaches the server."""
    if folder:
        print(f"{len(list(folder.glob('*.nii*')))} studies; labels go to {folder / 'labels' / 'final'}")
    print(f"The server is at http://{options.host}:{options.port} in about half a minute. Ctrl-C ends it.")
    if options.host in ("127.0.0.1", "localhost", "::1"):
        print("Only this machine reaches the server. HOST=0.0.0.0 opens it to every machine, without a password.")
    sys.stdout.flush()


def main() -> None:
    """Stage the app and the studies, then become the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", required=True, help="folder of patients, as predict takes it, or DICOMweb address")
    parser.add_argument("--labels", default="", help="folder for links and labels, by default in serving/studies")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--app", default=str(HERE / "app"))
    options = parser.parse_args()
    web = options.studies.startswith(("http://", "https://"))
    folder = None if web else view(options.studies, options.labels)
    tell(options, folder)
    stage(Path(options.app).resolve())
    server = ["start_server", "--app", options.app, "--studies", str(folder or options.studies)]
    # any zoo_source but the default takes the bundle as it is; sam2 would download weights
    conf = ["--conf", "models", NAME, "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
    address = ["--host", options.host, "--port", str(options.port)]
    arguments = [sys.executable, "-W", "ignore", "-m", "monailabel.main", *server, *address, *conf]
    # glibc keeps freed memory for the next request, as scripts/device.py tells it for the command line
    keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    tools = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    )  # itkimage2segimage, for DICOM
    series = {"MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality": "MR"}'}  # MONAI Label's default is CT
    own = {"PYTHONPATH": str(HERE), "PATH": tools}
    os.execve(sys.executable, arguments, keep | series | dict(os.environ) | own)


if __name__ == "__main__":
    main()
