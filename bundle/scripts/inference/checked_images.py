"""Images that are read and checked while the network computes; a faulty one is no error, but named at the end."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, MapTransform
from nibabel.affines import voxel_sizes
from torch.utils.data import get_worker_info

from scripts.data.brain_mask import brain_of
from scripts.data.plausible import STRIP, copy_faults, image_faults
from scripts.data.skull import faint_share
from scripts.data.transforms import lay_by_header
from scripts.data.volumes import (
    WRONG_END,
    Volume,
    check_shape,
    check_type,
    grid_faults,
    misnamed,
    read_header,
    read_volume,
)
from scripts.errors import UserError, kind_and_reason, root_of
from scripts.faults import FileFault
from scripts.folders.dicom import DICOM_FILES, write_series
from scripts.folders.map_files import label_map
from scripts.inference.writers import KEEP
from scripts.labels import SEQUENCES

logger = logging.getLogger(__name__)

REMEDY = "repair or replace the file"
MEMORY = "end other programs, then run the command again"
MOST_LOST = 0.1  # share of a stripped image that its brain mask may take away
MOST_FAINT = 0.08  # share of what is not 0 that may lie around the brain
READER = ThreadPoolExecutor(1)


class CheckedImages(Dataset):
    """A MONAI dataset that returns a faulty image as its entry with ``fault`` and ``remedy``, and raises no error.

    Each image is checked when it is read, as in training: see ``image_faults``. While the network computes, a thread
    reads the next one.

    Args:
        data: entries as find_work gives them.
        transform: the first of its transforms reads the file.
    """

    def __init__(self, data: Sequence[dict], transform: Compose) -> None:
        super().__init__(data, transform)
        self.reading: dict[int, Future[dict[str, Any]]] = {}  # the next image, by its index

    def __getitem__(self, index: int) -> Any:
        entry = {key: value for key, value in self.data[index].items() if key != "dicom"}
        reading, self.reading = self.reading.get(index), {}
        try:
            loaded = reading.result() if reading else self.read(self.data[index])
        except UserError:  # such as a full disk: the next one would fail in the same way
            raise
        except Exception as error:  # also out of memory: the other images must still be predicted
            logger.debug("an image cannot be read", exc_info=True)
            fault = str(error) if isinstance(error, ValueError) else kind_and_reason(root_of(error))
            remedy = getattr(error, "remedy", "") or (MEMORY if isinstance(root_of(error), MemoryError) else REMEDY)
            if "dicom" in self.data[index] and remedy == STRIP:
                kept = has_map(entry)
                remedy += f" (a mask of {'its volume in another output_dir' if kept else entry['image']})"
            return entry | {"fault": fault, "remedy": remedy}
        finally:
            if index + 1 < len(self.data) and get_worker_info() is None:  # loading processes read ahead by themselves
                self.reading = {index + 1: READER.submit(self.read, self.data[index + 1])}
        try:
            return self.transform(loaded, start=1)
        except Exception as error:
            logger.debug("a transform failed", exc_info=True)
            return entry | {"fault": kind_and_reason(root_of(error)), "remedy": REMEDY}

    def read(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry with its image read. Raises ValueError for a wrong file: FileFault if the remedy is known.

        The volume of a DICOM series is written first. One of which there is a label map stays until the new one has
        passed its check.
        """
        if "fault" in entry:
            raise FileFault(entry["fault"], entry["remedy"])
        series = entry.get("dicom", {}).get("files")
        if not series:
            return self.load(entry)
        entry = {key: value for key, value in entry.items() if key != "dicom"}
        image = Path(entry["image"])
        volume = image.with_name(f".part_{image.name}") if has_map(entry) else image
        try:
            write_series(series, volume)
            loaded = self.load(entry, str(volume))
            os.replace(volume, image)
        finally:
            if volume != image:
                volume.unlink(missing_ok=True)
        loaded["image"].meta[DICOM_FILES] = "\n".join(series)
        return loaded

    def load(self, entry: dict[str, Any], volume: str = "") -> dict[str, Any]:
        """The entry with its image read and checked; from ``volume``, if that is not yet in its place."""
        path = volume or entry["image"]
        channels = entry["channels"].get("volumes", len(SEQUENCES)) if "channels" in entry else 1
        if isinstance(path, list):
            check_images(path, channels)
        elif not Path(path).is_file():
            raise FileFault("the file is not there", "restore it, or leave it out of the datalist")
        elif misnamed(Path(path)):
            raise ValueError(WRONG_END)
        try:
            loaded = self.transform(entry | {"image": path}, end=1)
        except Exception as error:  # nibabel, gzip and zlib fail in many ways
            if isinstance(root_of(error), MemoryError):
                raise
            raise ValueError(f"unreadable or truncated ({kind_and_reason(root_of(error))})") from error
        lay_by_header(loaded["image"], path)  # also where a preprocessing of the user's own reads the file
        if not isinstance(path, list):
            used = entry["channels"]["image"] if "channels" in entry else ()
            loaded["image"].meta["filename_or_obj"] = entry["image"]
            check_image(loaded["image"], path, channels, entry.get("brain_mask", ""), used)
        loaded["image"].meta[KEEP] = "yes" if loaded.pop(KEEP, False) else ""
        return loaded


def has_map(entry: Mapping[str, Any]) -> bool:
    """Whether there is a label map of an earlier volume of this DICOM study, which lies in OUT/images."""
    return label_map(str(Path(entry["image"]).parents[1]), entry["image"], entry["case"]).is_file()


class CheckImaged(MapTransform):
    """The check of CheckedImages as a transform, to stand after LoadImaged: MONAI Label's server has no such dataset.

    Raises:
        UserError: names the image, the fault and the remedy.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            path = data[key].meta.get("filename_or_obj", "")
            try:
                check_image(data[key], path)
            except ValueError as error:
                about = (path or key, error, getattr(error, "remedy", ""))
                raise UserError(": ".join(filter(None, map(str, about)))) from error
        return dict(data)


def check_image(
    image: MetaTensor, path: str, channels: int = 1, brain_mask: str = "", used: Sequence[int] = ()
) -> None:
    """Look at an image; before, set it to 0 outside the brain mask, if there is one. Warns of a doubtful one.

    Raises:
        ValueError: FileFault if the remedy is known, for an image that is no skull-stripped brain on a known grid.
    """
    if path:
        check_type(path)
    header = read_header(path) if path else (image.affine.numpy(), "mm", True, "")
    volume = check_shape(Volume(image.numpy(), *header), channels)  # its voxels are the image's
    name = Path(image.meta.get("filename_or_obj", path)).name
    if brain_mask:
        inside = brain_of(brain_mask, volume, name)
        lost = np.count_nonzero(volume.voxels[~inside]) / max(np.count_nonzero(volume.voxels), 1)
        if lost > MOST_LOST and not image_faults(volume, used):
            logger.warning(
                f"{name} is skull-stripped already, and brain mask {brain_mask} takes {lost:.0%} of it away: is it the "
                "mask of this image?"
            )
        volume.voxels[~inside] = 0
    if faults := image_faults(volume, used):
        fault, remedy = faults[0]
        if brain_mask and remedy == STRIP:
            fault, remedy = f"with brain mask {brain_mask} applied: {fault}", "give the mask of this image"
        raise FileFault(fault, remedy)
    spacing = voxel_sizes(volume.affine)
    sequences = [volume.voxels[..., index] for index in used] if channels > 1 else [volume.voxels]
    if (share := max(faint_share(sequence, spacing) for sequence in sequences)) > MOST_FAINT:
        logger.warning(
            f"{name}: {share:.0%} of what is not 0 lies around the brain, with values near 0, as a spline or a soft "
            "mask leaves them. Tumour may be missed: set the background to 0, or give a brain mask (--brain_mask)."
        )


def check_images(paths: Sequence[str], channels: int) -> None:
    """Look at each of a patient's files, which are read as one image, and compare their grids.

    Raises:
        ValueError: FileFault if the remedy is known, for the first that is wrong.
    """
    first = read_volume("image", {"image": Path(paths[0])}, channels)
    files = [Path(path) for path in dict.fromkeys(paths)]
    for index, file in enumerate(files):
        volume = read_volume("image", {"image": file}, channels) if index else first
        faults = [*image_faults(volume), *grid_faults(volume, first, files[0].name), *copy_faults(file, files[:index])]
        if faults:
            raise FileFault(f"{file.name}: {faults[0][0]}", faults[0][1])
