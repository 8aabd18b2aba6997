"""A MONAI Label server with this bundle, for 3D Slicer and OHIF: `make label STUDIES=DIR`, in its own environment.

python serving/serve.py --studies DIR [--labels DIR] [--t1ce PATTERN] [--port 8000] [--host 127.0.0.1] [--app DIR]

The app's folder gets a copy of the bundle, so training from Slicer changes the copy's weights and not the shipped ones;
remove the folder to start from scratch. The patients' folder is only read: the server works in a folder of links to its
T1ce volumes, which also gets the labels. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "bundle"
NAME = "brats_t1ce_kd_segmentation"  # by "segmentation" MONAI Label knows what kind of model it is
ENDINGS = (".nii.gz", ".nii")
LOCK = ".server.lock"  # MONAI Label takes .lock of the patients' folder itself, for a moment
PARTS = ("LICENSE", "configs", "docs", "models", "scripts")  # of the bundle; runs and predictions may lie beside them

sys.path.insert(0, str(BUNDLE))


@cache  # once for each folder
def claim(folder: Path, option: str) -> None:
    """Lock a folder, which an option names, until the server ends: a second server would replace files in it.

    Ends with a sentence if a server has it.
    """
    from scripts.files import write_error
    from scripts.locking import locked

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = locked(folder / LOCK, latest=0)
    except BlockingIOError:
        sys.exit(
            f"{folder} is in use by another server: stop it, or give this one a folder of its own by {option}=DIR, and "
            "another PORT."
        )
    except OSError as error:
        sys.exit(str(write_error(folder, error)))
    os.set_inheritable(os.dup(file.fileno()), True)  # stays open, also in the server that this process becomes


def stage(app: Path) -> None:
    """MONAI Label's app for bundles with a copy of this one in it; weights that were trained there are kept."""
    theirs = app / "bundle_app.py"
    if not theirs.is_file():
        if not (app / "main.py").is_file():
            with tempfile.TemporaryDirectory() as folder:
                download = ["apps", "--download", "--name", "monaibundle", "--output", folder]
                subprocess.run(
                    [sys.executable, "-m", "monailabel.main", *download], check=True, stdout=subprocess.DEVNULL
                )
                shutil.copytree(Path(folder, "monaibundle"), app, dirs_exist_ok=True)
        (app / "main.py").rename(theirs)
    shutil.copy(HERE / "label_app.py", app / "main.py")
    from scripts.files import sha256

    target = app / "model" / NAME
    parts, weights, copied = set(PARTS), target / "models" / "model.pt", target / "models" / "shipped.sha256"
    trained = (target / "eval" / "history.csv").is_file()
    if weights.is_file() and (trained or (copied.is_file() and copied.read_text() != sha256(weights))):
        print(f"{weights} is no copy of the shipped weights, so it is kept. For the shipped weights delete {app}.")
        parts -= {"models"}

    def leave(folder: str, names: list[str]) -> set[str]:
        return set(names) - parts if Path(folder) == BUNDLE else {"__pycache__"}

    shutil.copytree(BUNDLE, target, ignore=leave, dirs_exist_ok=True)
    if "models" in parts and weights.is_file():
        copied.write_text(sha256(weights))
    adapt(target / "configs" / "inference.yaml")


def adapt(config: Path) -> None:
    """Let the copy check each image after it is read, as inference does by a data set that the server does not use, and
    number the classes without a gap, as 3D Slicer does."""
    from scripts.labels import CLASSES

    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    check = {"_target_": "scripts.inference.checked_images.CheckImaged", "keys": "@image_keys"}
    document["preprocessing"]["transforms"].insert(1, check)
    document["et_label"] = CLASSES.index("ET")
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def find_studies(studies: str, t1ce: str = "") -> list[dict[str, Any]]:
    """T1ce volume and name of each patient, found as ``predict`` finds them. Ends with a sentence if there is none.

    Args:
        studies: folder of the patients.
        t1ce: pattern of the volumes' names, where no known ending tells them.
    """
    if not studies or not Path(studies).is_dir():
        sys.exit(f"STUDIES is {studies!r}, which is no folder: give a folder of patients: make label STUDIES=DIR")
    from scripts.errors import UserError
    from scripts.folders.cases import find_images
    from scripts.folders.choice import Choice
    from scripts.folders.dicom_files import is_dicom
    from scripts.folders.folder_files import list_files

    if Path(studies, "labels", "final").is_dir() and not t1ce:  # of an early server, which took the volumes here
        volumes = [path for path in sorted(Path(studies).iterdir()) if path.name.lower().endswith(ENDINGS)]
        return [{"image": str(path), "case": path.name[: -len(ending(path))]} for path in volumes]
    try:
        images = find_images(studies, choice=Choice({"t1ce": t1ce}))
    except UserError as error:
        files = list_files(Path(studies))
        if not files.volumes and any(is_dicom(path) for path, _ in files.left_out if path.is_file()):
            sys.exit(f"STUDIES is {studies!r}, which holds DICOM: use predict, or a DICOMweb address.")
        advice = re.sub(r' --label ".*", also --t1, --t2, --flair', "", str(error)).replace("--t1ce ", "T1CE=")
        sys.exit(f"STUDIES is {studies!r}: {advice}")
    if several := next((image["image"] for image in images if "channels" in image), ""):
        sys.exit(f"STUDIES is {studies!r}, where a file holds several sequences ({several}): use predict.")
    return images


def ending(path: Path) -> str:
    """.nii.gz or .nii, also of a name in capitals."""
    return next(ending for ending in ENDINGS if path.name.lower().endswith(ending))


def view(studies: str, labels: str, t1ce: str = "") -> Path:
    """The folder that the server works in: links to the T1ce volumes, by the patients' names.

    Args:
        studies: folder of the patients.
        labels: that folder; by default one in serving/studies.
        t1ce: as for ``find_studies``.
    """
    source = Path(studies).expanduser().resolve()
    images = find_studies(str(source), t1ce)
    name = f"{source.name}_{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    folder = Path(labels).expanduser().resolve() if labels else HERE / "studies" / name
    if folder == source or source in folder.parents or folder in source.parents:
        sys.exit(f"LABELS is {labels!r}, expected a folder apart from STUDIES ({studies}), which is only read.")
    folder.mkdir(parents=True, exist_ok=True)
    links = {folder / f"{image['case']}{ending(Path(image['image']))}": image["image"] for image in images}
    if uploaded := next((link for link in links if link.exists() and not link.is_symlink()), None):
        sys.exit(
            f"LABELS has an uploaded volume {uploaded}, and {links[uploaded]} has the same name: rename one, or "
            "give another folder by LABELS=DIR."
        )
    claim(folder, "LABELS")
    remember(folder, images)
    for link in [path for path in folder.iterdir() if path.is_symlink() and path.name.lower().endswith(ENDINGS)]:
        link.unlink()  # of an earlier start; labels, uploaded volumes and links to folders stay
    for link, volume in links.items():
        link.symlink_to(Path(volume).resolve())
    if any(source.glob("labels/final/*")) and not any(folder.glob("labels/final/*")):
        print(
            f"{source}/labels holds labels of an early server, which are not used. Copy it into {folder} to use them."
        )
    return folder


def remember(folder: Path, images: list[dict[str, Any]]) -> None:
    """Write down which volume each name stands for. Ends with a sentence if a label is of another volume."""
    from scripts.files import write_json

    record = folder / "volumes.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    found = {}
    for image in images:
        case = image["case"]
        found[case] = stamp(Path(image["image"]))
        if known.get(case, found[case]) != found[case] and any(folder.glob(f"labels/*/{glob.escape(case)}.n*")):
            sys.exit(
                f"LABELS is {folder}, whose label of {case} is of another volume than {image['image']} (size or time "
                f"differs): give another folder by LABELS=DIR. If you know that it is the same, delete {record}."
            )
    write_json(record, known | found)


def stamp(path: Path) -> list[int] | None:
    """Size and time of a volume; None for a link to none."""
    return [(stat := path.stat()).st_size, int(stat.st_mtime)] if path.is_file() else None


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
    parser.add_argument("--t1ce", default="", help="pattern of the T1ce volumes' names, as for predict")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--app", default=str(HERE / "app"))
    options = parser.parse_args()
    web = options.studies.startswith(("http://", "https://"))
    claim(Path(options.app).resolve(), "APP")  # before the links of a running server would change
    folder = None if web else view(options.studies, options.labels, options.t1ce)
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
