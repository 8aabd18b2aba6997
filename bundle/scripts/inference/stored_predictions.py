"""Predictions of all patients by a trained network of another program, made once, as files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import nibabel as nib
import numpy as np
from monai.utils import ensure_tuple
from tqdm import tqdm

from scripts.data.entries import datalist_images
from scripts.errors import UserError, kind_and_reason
from scripts.files import read_json, write_json
from scripts.inference.writers import write_probabilities
from scripts.labels import PROBABILITIES

Predict = Callable[[list[str]], np.ndarray]  # a patient's files, in the teacher's order, to (C, H, W, D)


def predict_all(
    load: Callable[[], Predict], channels: Sequence[str], datalist: str, dataset_dir: str, output_dir: str,
    made_by: list[str], source: str,
) -> str:  # fmt: skip
    """Write each patient's class probabilities, unless they are there and newer than the image; the folder.

    Processes share the patients.

    The teacher is loaded only if there is something to predict, so a training resumes without it.

    Raises:
        UserError: if the folder holds another teacher's predictions, no patient has all channels, or the teacher fails.
    """
    folder, record = Path(output_dir), {"made_by": made_by, "channels": list(channels)}
    predicted = any(folder.glob(path_of(folder, "*").name))  # asked first: the record is written before
    recorded = read_json(made, "targets") if (made := folder / "teacher.json").is_file() else None
    if recorded != record and (recorded or predicted):
        raise UserError(f"{folder} holds predictions of another teacher: give another folder, or delete it.")
    images = datalist_images(datalist, dataset_dir, channels)
    own = images[idist.get_rank() :: idist.get_world_size()]
    if left := [image for image in own if not is_newer(path_of(folder, image["case"]), image)]:
        predict = load()
        for image in tqdm(left, "the teacher predicts"):
            try:
                with single_files(image) as files:
                    found, affine = predict(files), nib.load(files[0]).affine
            except UserError:
                raise
            except Exception as error:  # another program's, which fails in many ways
                raise UserError(
                    f"{source} cannot predict {image['case']} ({kind_and_reason(error)}): its network must take the "
                    f"channels {', '.join(channels)}, as its folder says."
                ) from error
            folder.mkdir(parents=True, exist_ok=True)
            write_json(made, record)  # once it can predict
            write_probabilities(path_of(folder, image["case"]), found, affine)
    idist.barrier()
    return str(folder)


@contextmanager
def single_files(image: Mapping[str, Any]) -> Iterator[list[str]]:
    """A file of each sequence; the volumes of a file that holds all sequences are written to files of their own."""
    files = list(ensure_tuple(image["image"]))
    with tempfile.TemporaryDirectory() as folder:
        for place, volume in enumerate(image["channels"]["image"] if "channels" in image else ()):
            whole: Any = nib.load(files[place])
            files[place] = str(Path(folder, f"{place}.nii.gz"))
            nib.save(whole.slicer[..., volume], files[place])
        yield files


def is_newer(prediction: Path, image: Mapping[str, Any]) -> bool:
    """Whether a prediction is there, and newer than all files of its image."""
    return prediction.is_file() and all(
        prediction.stat().st_mtime_ns >= Path(file).stat().st_mtime_ns for file in ensure_tuple(image["image"])
    )


def path_of(folder: Path, case: str) -> Path:
    """The file of a case's probabilities, as predict names it."""
    return folder / f"{case}_{PROBABILITIES}.nii.gz"
