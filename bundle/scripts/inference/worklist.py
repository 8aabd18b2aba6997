"""Which images to predict now."""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from scripts.data.brain_mask import with_masks
from scripts.data.entries import datalist_images
from scripts.errors import UserError
from scripts.folders.case import stamp
from scripts.folders.cases import case_images, find_cases, find_images
from scripts.folders.choice import Choice
from scripts.folders.map_files import label_map, maps_of
from scripts.folders.studies import find_series
from scripts.inference.record import record_groups
from scripts.inference.writers import KEEP

logger = logging.getLogger(__name__)


def find_work(
    dataset_dir: str,
    sequence: str | Sequence[str] = "t1ce",
    datalist: str = "",
    output_dir: str = "",
    overwrite: bool = False,
    names: Mapping[str, str] | None = None,
    shard: str = "",
    brain_mask: str = "",
    series: str = "",
    also: Mapping[str, bool] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Images that are ``left`` to be predicted now, and ``all`` to be recorded, as ``{"image": path, "case": name}``.

    ``all`` also holds the images of other shares that have no label map yet.

    Args:
        dataset_dir, sequence, datalist, names, series, brain_mask: as for ``list_images``.
        output_dir: where label maps (NAME_seg.nii.gz) are.
        overwrite: predict images again that have a label map.
        shard: "3/16" takes the third of 16 shares of the images, so that 16 machines share the work.
        also: whether files that end so (``NAME_entropy.nii.gz``) are wanted too: an image that lacks one is predicted
            again, and its files that are there stay (``KEEP``).

    Raises:
        UserError: as ``list_images``, or if output_dir holds label maps with their names that no inference wrote, such
            as the truth, or that belong to other images.
    """
    images = list_images(dataset_dir, sequence, datalist, output_dir, names, brain_mask, series)
    images = [image | stamp(image) for image in images]
    mine = share(images, shard)
    check_own(mine, output_dir)
    maps = {image["case"]: label_map(output_dir, image["image"], image["case"]) for image in images}
    there = {case: path for case, path in maps.items() if path.is_file()}
    cases = {image["case"] for image in mine}
    others = [image for image in images if image["case"] not in {*cases, *there}]
    if overwrite:
        return {"all": [*mine, *others], "left": mine}
    changed = changed_images({there[image["case"]]: image for image in mine if image["case"] in there}, output_dir)
    mine = [image | changed.get(image["case"], {}) for image in mine]
    done = done_cases(mine, there, [ending for ending, want in (also or {}).items() if want]) - changed.keys()
    left = [image | {KEEP: image["case"] in there} for image in mine if image["case"] not in done]
    if skipped := len(mine) - len(left):
        logger.warning(
            f"{skipped} of {len(mine)} label maps are in {output_dir}: --overwrite True predicts them again."
        )
    return {"all": [*mine, *others], "left": left}


def list_images(
    dataset_dir: str,
    sequence: str | Sequence[str] = "t1ce",
    datalist: str = "",
    output_dir: str = "",
    names: Mapping[str, str] | None = None,
    brain_mask: str = "",
    series: str = "",
) -> list[dict[str, Any]]:
    """All images of a data set, whether they are predicted or not.

    Args:
        dataset_dir: one file, a folder of them, DICOM, or the folder that the datalist's paths are relative to.
        sequence: which files of a BraTS folder, or of the datalist, to take. Several are stacked, for a teacher.
        datalist: a file as written by python -m scripts datalist; all its cases are taken.
        output_dir: where volumes of DICOM series go.
        names: glob by role (a sequence or ``label``), for files whose names no scheme knows.
        brain_mask: the file, or pattern of files, outside of which images are set to 0; see ``with_masks``.
        series: which series of each DICOM study to take; see ``find_series``.

    Raises:
        UserError: if options do not go together, or there are no images.
    """
    sequences = ensure_tuple(sequence)
    choice = Choice(names or {})
    if series and (datalist or choice.globs or len(sequences) > 1):
        raise UserError(f"series is {series!r}, which is of DICOM: leave it out, or datalist, patterns and sequences.")
    if datalist and choice.globs:
        raise UserError(f"datalist is {datalist}, which names files itself: leave out --{', --'.join(choice.globs)}.")
    if datalist:
        images = datalist_images(datalist, dataset_dir, sequences)
    elif len(sequences) > 1:
        images = case_images(find_cases(dataset_dir, choice, labelled=False), sequences, dataset_dir)
    else:
        images = [] if choice.globs else find_series(dataset_dir, output_dir, sequences[0], series)
        images = images or find_images(dataset_dir, sequences[0], choice)
    if brain_mask and len(sequences) > 1:
        raise UserError(
            f"brain_mask is {brain_mask!r}, but student_sequence has {len(sequences)}: remove the skull from the files "
            "first, and leave brain_mask out."
        )
    return with_masks(images, brain_mask) if brain_mask else images


def share(images: Sequence[dict[str, Any]], shard: str) -> list[dict[str, Any]]:
    """Images of the k-th of n shares, of a shard "k/n"; perhaps none.

    The case's name alone decides, so that a file that arrives later moves no other one to another share.

    Raises:
        UserError: if the shard is not of this form.
    """
    if not shard:
        return list(images)
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", str(shard))
    part, count = map(int, found.groups()) if found else (2, 1)
    if part > count:
        raise UserError(f"shard is {shard!r}, expected K/N with K from 1 to N, as 3/16.")
    mine = [image for image in images if zlib.crc32(os.fsencode(image["case"])) % count == part - 1]
    if not mine:
        logger.info(f"Nothing to do: none of the {len(images)} images is in share {shard}.")
    return mine


def done_cases(images: Sequence[Mapping[str, Any]], there: Mapping[str, Path], endings: Sequence[str]) -> set[str]:
    """Cases that have a label map ``there``, and the files with these endings beside it."""
    made = [image for image in images if image["case"] in there]
    done = {image["case"] for image in made if not lacks(there[image["case"]], image, endings)}
    if lacking := len(made) - len(done):
        logger.info(f"Label maps without {' or '.join(endings)}: {lacking}. It is added, and the label maps stay.")
    return done


def lacks(path: Path, image: Mapping[str, Any], endings: Sequence[str]) -> bool:
    """Whether a file with one of these endings is missing beside a label map, ``path``. Only DICOM has a DICOM SEG."""
    name = path.name.removesuffix("seg.nii.gz")
    wanted = [ending for ending in endings if not ending.endswith(".dcm") or "dicom" in image]
    return "fault" not in image and not all(path.with_name(name + ending).is_file() for ending in wanted)


def check_own(images: Sequence[Mapping[str, Any]], output_dir: str) -> None:
    """Raises UserError if a file that is to be written is there, and no inference into the folder lists its case."""
    groups = record_groups(output_dir, planned=True)
    listed = {Path(case["prediction"]).name for group in groups for case in group["cases"]}
    foreign = []
    for image in images:
        maps = maps_of(output_dir, image["image"], image["case"])
        foreign += [path for path in maps if path.is_file() and maps[0].name not in listed]
    if foreign:
        raise UserError(
            f"output_dir {output_dir} holds {len(foreign)} file(s) of patients that its inference.json does not list "
            f"({foreign[0].name}), such as the truth or an evaluation's: give another output_dir."
        )


def changed_images(label_maps: Mapping[Path, Mapping[str, Any]], output_dir: str) -> dict[str, dict[str, str]]:
    """``fault`` and ``remedy`` by case, of images that were replaced since an inference made these label maps of them.

    Raises:
        UserError: if the label maps were made of other images, or with other brain masks.
    """
    sources = {Path(case["prediction"]).name: case for group in record_groups(output_dir) for case in group["cases"]}
    clear = {path: image for path, image in label_maps.items() if "fault" not in image}  # a study may be unclear now
    changed = {}
    for path, image in clear.items():
        source = sources[path.name]
        masks = [source.get("brain_mask"), str(Path(mask).resolve()) if (mask := image.get("brain_mask")) else None]
        remedy = "give another output_dir, or --overwrite True to predict it again."
        if masks[0] != masks[1]:
            then, now = (f"with brain mask {mask}" if mask else "without a brain mask" for mask in masks)
            raise UserError(f"{path} was predicted {then}, not {now}: {remedy}")
        if identity(source) != identity(image):
            raise UserError(f"{path} was predicted from {origin(source)}, not from {origin(image)}: {remedy}")
        if said := difference(source, image):
            fault = f"{origin(image)} was changed after {path.name.partition('.nii')[0]} was predicted ({said})"
            remedy = f"remove {path} to predict it again, or give another output_dir"
            changed[image["case"]] = {"fault": fault, "remedy": remedy}
    return changed


def difference(source: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    """How an image's size or time differs from that of when it was predicted; "" if they do not, or it is gone."""
    for key, words in (("size", str), ("time_ns", lambda time: str(datetime.fromtimestamp(time // 10**9)))):
        if key in source and source[key] != (now := image.get(key, source[key])):
            return f"{key.removesuffix('_ns')} {words(now)}, was {words(source[key])}"
    return ""


def identity(image: Mapping[str, Any]) -> str:
    """What tells one image from another: the UID of its series, or its path. The volume of a series may be moved."""
    return str(image.get("dicom", {}).get("series") or Path(ensure_tuple(image["image"])[0]).resolve())


def origin(image: Mapping[str, Any]) -> str:
    """Where an image comes from, in words: its file, or the folder of its DICOM series."""
    if dicom := image.get("dicom"):
        return f"series {dicom['number']} ({dicom['description']}) of {Path(next(iter(dicom['files']), '')).parent}"
    return str(Path(ensure_tuple(image["image"])[0]).resolve())
