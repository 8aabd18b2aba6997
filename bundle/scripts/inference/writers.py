"""From class probabilities to files: uncertainty maps, probabilities, file names, atomic writing."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, NibabelWriter
from monai.transforms import Compose, Invertd, MapTransform, SaveImaged
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from scripts.files import replacing
from scripts.folders.map_files import case_of
from scripts.labels import PROBABILITIES

KEEP = "keep"  # of an image, and in its metadata: earlier files stay, and only missing ones are written


class Waiting:
    """Hidden files of a patient, by what they replace; ``then`` is called when they have."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.files: dict[Path, Path] = {}
        self.then: Callable[[], None] | None = then

    def show(self) -> None:
        for path, hidden in self.files.items():
            os.replace(hidden, path)
        self.files = {}
        then, self.then = self.then, None
        if then:
            then()


WAITING: ContextVar[Waiting | None] = ContextVar("waiting", default=None)  # of the patient that this thread writes


@contextmanager
def together(then: Callable[[], None]) -> Iterator[None]:
    """Maps of uncertainty and probabilities that are written inside appear when the label map is there, and so belong
    to it. An error before that leaves earlier files as they are; ``then`` is called at once after that.
    """
    waiting = Waiting(then)
    token = WAITING.set(waiting)
    try:
        yield
        waiting.show()  # of a label map that stays
    finally:
        WAITING.reset(token)
        for hidden in waiting.files.values():
            hidden.unlink(missing_ok=True)


@contextmanager
def beside_map(path: Path) -> Iterator[Path]:
    """As ``replacing``; inside ``together`` the file waits for the label map."""
    waiting = WAITING.get()
    hidden = path.with_name(f".part_{path.name}") if waiting else path
    with replacing(hidden) as partial:
        yield partial
    if waiting:
        waiting.files[path] = hidden


def stays(path: Path, meta: Mapping[str, Any]) -> bool:
    """Whether the file is there and is to stay as it is: a person may have corrected it."""
    return bool(meta.get(KEEP)) and path.is_file()


class SaveUncertaintyd(MapTransform):
    """Writes maps of uncertainty in the image's own grid beside the label map, float32.

    NAME_entropy.nii.gz: -sum_c p_c log p_c of the mean probabilities, in nats, from 0 (certain) to log(classes).
    NAME_variance.nii.gz, for several members: variance of p_c over the members, mean over the classes.

    Args:
        keys: probabilities of each member, (C, H, W, D).
        transform: the preprocessing, which is inverted.
        output_dir: the folder to write to.
    """

    def __init__(self, keys: KeysCollection, transform: Compose, output_dir: str) -> None:
        super().__init__(keys)
        self.back = Invertd(["entropy", "variance"], transform, "image", nearest_interp=False, allow_missing_keys=True)
        self.savers = [
            SaveImaged(
                name,
                output_dir=output_dir,
                output_postfix=name,
                separate_folder=False,
                resample=False,
                print_log=False,
                allow_missing_keys=True,
                writer=AtomicWriter,
                output_name_formatter=case_name,
            )
            for name in ("entropy", "variance")
        ]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        members = torch.stack([data[key] for key in self.keys])  # (E, C, H, W, D)
        mean = members.mean(dim=0)
        maps = dict(data) | {"entropy": torch.special.entr(mean).sum(dim=0, keepdim=True)}
        if len(members) > 1:
            maps["variance"] = members.var(dim=0, correction=0).mean(dim=0, keepdim=True)
        for name in maps.keys() & {"entropy", "variance"}:
            maps[name] = MetaTensor(maps[name], meta=dict(data["image"].meta))
        maps = self.back(maps)
        for saver in self.savers:
            saver(maps)
        return dict(data)


class SaveProbabilitiesd(MapTransform):
    """Writes class probabilities in the image's own grid, NAME_probabilities.nii.gz: (H, W, D, C), 8 bit, scale 1/255.

    Programs that read NIfTI get numbers from 0 to 1.

    Args:
        keys: class probabilities in the grid of the preprocessed image, (C, h, w, d).
        transform: the preprocessing, which is inverted.
        output_dir: the folder to write to.
    """

    def __init__(self, keys: KeysCollection, transform: Compose, output_dir: str) -> None:
        super().__init__(keys)
        self.back = Invertd(keys, transform, "image", nearest_interp=False)
        self.output_dir = output_dir

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        inverted = self.back(dict(data))
        for key in self.key_iterator(inverted):
            volume = inverted[key]
            name = case_name(data["image"].meta, None)["subject"].replace(".nii.gz", f"_{PROBABILITIES}.nii.gz")
            if not stays(path := Path(self.output_dir, name), data["image"].meta):
                write_probabilities(path, volume.cpu().numpy(), volume.affine.numpy())
        return dict(data)


def write_probabilities(path: Path, probabilities: np.ndarray, affine: np.ndarray) -> None:
    """Write class probabilities (C, H, W, D) as an 8-bit NIfTI file; what they lack to 1 is background."""
    background = probabilities[:1] + 1 - probabilities.sum(axis=0, keepdims=True)
    voxels = np.rint(np.concatenate([background, probabilities[1:]]).clip(0, 1) * 255).astype(np.uint8)
    image = nib.Nifti1Image(np.moveaxis(voxels, 0, 3), affine)
    image.header.set_slope_inter(1 / 255, 0)
    image.header.set_xyzt_units("mm")
    with beside_map(path) as partial:
        nib.save(image, partial)


class AtomicWriter(NibabelWriter):
    """MONAI's NibabelWriter with a hidden file that is renamed at the end, so that every label map is whole.

    Its axes are the image's also where MONAI does not find them again, as at 45 degrees. Nothing is resampled. A file
    that is to stay is not written: see ``stays``.
    """

    data_obj: Any
    meta: Mapping[str, Any] = {}

    def set_metadata(self, meta_dict: Mapping[str, Any] | None = None, resample: bool = False, **options: Any) -> None:
        """Take over the affine, and turn the map to the axes of the image."""
        self.meta = meta_dict or {}
        original, affine, _ = self.get_meta_info(meta_dict)
        voxels, affine = np.asarray(self.data_obj), np.eye(4) if affine is None else np.asarray(affine)
        turn = io_orientation(np.eye(4) if original is None else np.linalg.inv(original) @ affine)
        self.data_obj = apply_orientation(voxels, turn)
        self.affine = affine @ inv_ornt_aff(turn, voxels.shape[:3])

    def write(self, filename: Any, verbose: bool = False, **options: Any) -> None:
        path = Path(filename)
        if stays(path, self.meta):
            return
        is_map = path.name.endswith("_seg.nii.gz")
        with replacing(path) if is_map else beside_map(path) as partial:
            super().write(partial, verbose=verbose, **options)
        if is_map and (waiting := WAITING.get()):
            waiting.show()


def case_name(meta: Mapping[str, Any], saver: Any) -> dict[str, Any]:
    """The file name of a case, for SaveImaged's ``output_name_formatter``: NAME_t1ce -> NAME."""
    case = meta.get("case") or case_of(meta["filename_or_obj"])
    return {"subject": f"{case}.nii.gz", "idx": None}  # MONAI removes the extension
