"""Which images to predict now."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from scripts.data.brain_mask import with_masks
from scripts.data.entries import datalist_images
from scripts.errors import UserError
from scripts.faults import report_lacking
from scripts.folders.cases import Case, Choice, find_cases, find_images, label_map, maps_of
from scripts.folders.studies import find_series
from scripts.inference.record import record_groups
from scripts.labels import SEQUENCES

__all__ = ["find_work"]

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
    """Images to predict: ``all``, and those ``left`` to be predicted now, each as ``{"image": path, "case": name}``.

    Args:
        dataset_dir: one file, a folder of them, DICOM, or the folder that the datalist's paths are relative to.
        sequence: which files of a BraTS folder, or of the datalist, to take. Several are stacked, for a teacher.
        datalist: a file as written by python -m scripts datalist; all its cases are taken.
        output_dir: where label maps (NAME_seg.nii.gz) are.
        overwrite: predict images again that have a label map.
        names: glob by role (a sequence or ``label``), for files whose names no scheme knows.
        shard: "3/16" takes the third of 16 shares of the images, so that 16 machines share the work.
        brain_mask: the file, or pattern of files, outside of which images are set to 0; see ``with_masks``.
        series: which series of each DICOM study to take; see ``find_series``.
        also: whether files that end so (``NAME_entropy.nii.gz``) are wanted too: an image that lacks one is predicted
            again.

    Raises:
        UserError: if the sequence is not one of the four, there are no images, or output_dir holds label maps with
            their names that no inference wrote, such as the truth, or that belong to other images.
    """
    sequences = ensure_tuple(sequence)
    if set(sequences) - set(SEQUENCES):
        raise UserError(f"student_sequence is {sequence!r}, expected one or several of {list(SEQUENCES)}.")
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
    if brain_mask:
        images = with_masks(images, brain_mask)
    images = [image | stamp(image) for image in share(images, shard)]
    map_of = {image["case"]: label_map(output_dir, image["image"], image["case"]) for image in images}
    check_own(images, output_dir)
    existing = {path: image for image in images if (path := map_of[image["case"]]).is_file()}
    check_existing(existing, output_dir, overwrite)
    wanted = [ending for ending, want in (also or {}).items() if want]
    lacking = [path for path, image in existing.items() if lacks(path, image, wanted)]
    done = set(existing) - set(lacking)
    left = [image for image in images if overwrite or map_of[image["case"]] not in done]
    if lacking and not overwrite:
        logger.info(f"Label maps that have no {' or '.join(wanted)} beside them are predicted again: {len(lacking)}.")
    if skipped := len(images) - len(left):
        logger.warning(
            f"{skipped} of {len(images)} label maps are in {output_dir}: --overwrite True predicts them again."
        )
    return {"all": images, "left": left}


def share(images: Sequence[dict[str, Any]], shard: str) -> list[dict[str, Any]]:
    """Every n-th image from the k-th on, of a shard "k/n".

    Raises:
        UserError: if the shard is not of this form, or has no image.
    """
    if not shard:
        return list(images)
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", str(shard))
    first, count = map(int, found.groups()) if found else (2, 1)
    if first > count or first > len(images):
        expected = f"K/N with K from 1 to N, as 3/16, and K up to the number of images, {len(images)}"
        raise UserError(f"shard is {shard!r}, expected {expected}.")
    return list(images)[first - 1 :: count]


def lacks(label_map: Path, image: Mapping[str, Any], endings: Sequence[str]) -> bool:
    """Whether a file with one of these endings is missing beside a label map. Only DICOM has a DICOM SEG."""
    name = label_map.name.removesuffix("seg.nii.gz")
    wanted = [ending for ending in endings if not ending.endswith(".dcm") or "dicom" in image]
    return "fault" not in image and not all(label_map.with_name(name + ending).is_file() for ending in wanted)


def stamp(image: Mapping[str, Any]) -> dict[str, int]:
    """Size and time of the image's files, mask included: they tell whether one was replaced since it was predicted."""
    files = image.get("dicom", {}).get("files") or ensure_tuple(image["image"])
    paths = [*dict.fromkeys(files), *filter(None, [image.get("brain_mask")])]
    stats = [Path(path).stat() for path in paths if Path(path).is_file()]
    if not stats:
        return {}
    return {"size": sum(stat.st_size for stat in stats), "time_ns": max(stat.st_mtime_ns for stat in stats)}


def case_images(cases: Sequence[Case], sequences: Sequence[str], dataset_dir: str) -> list[dict[str, Any]]:
    """Images of those cases that have all of several sequences, as ``{"image": paths, "case": name}``.

    Raises:
        UserError: if no case has.
    """
    lacking = [case.name for case in cases if set(sequences) - set(case.files)]
    report_lacking(lacking, len(cases), sequences, f"dataset_dir {dataset_dir}")
    images = []
    for case in (case for case in cases if case.name not in lacking):
        image = {"image": [str(case.files[name]) for name in sequences], "case": case.name}
        channels = {"channels": {"image": [case.channels[name] for name in sequences]}} if case.channels else {}
        images.append(image | channels)
    return images


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


def check_existing(label_maps: Mapping[Path, Mapping[str, Any]], output_dir: str, overwrite: bool) -> None:
    """Raises UserError unless an earlier inference into the folder made these label maps from the same images."""
    sources = {Path(case["prediction"]).name: case for group in record_groups(output_dir) for case in group["cases"]}
    clear = {path: image for path, image in label_maps.items() if "fault" not in image}  # a study may be unclear now
    for path, image in clear.items():
        source = sources[path.name]
        masks = [source.get("brain_mask"), str(Path(mask).resolve()) if (mask := image.get("brain_mask")) else None]
        remedy = "give another output_dir, or --overwrite True to predict it again."
        if not overwrite and masks[0] != masks[1]:
            then, now = (f"with brain mask {mask}" if mask else "without a brain mask" for mask in masks)
            raise UserError(f"{path} was predicted {then}, not {now}: {remedy}")
        changed = any(key in source and source[key] != image.get(key) for key in ("size", "time_ns"))
        if not overwrite and (changed or identity(source) != identity(image)):
            raise UserError(
                f"{path} was predicted from {origin(source)}, not from {origin(image)} as it is now: {remedy}"
            )


def identity(image: Mapping[str, Any]) -> str:
    """What tells one image from another: the UID of its series, or its path. The volume of a series may be moved."""
    return str(image.get("dicom", {}).get("series") or Path(ensure_tuple(image["image"])[0]).resolve())


def origin(image: Mapping[str, Any]) -> str:
    """Where an image comes from, in words: its file, or the folder of its DICOM series."""
    if dicom := image.get("dicom"):
        return f"series {dicom['number']} ({dicom['description']}) of {Path(dicom['files'][0]).parent}"
    return str(Path(ensure_tuple(image["image"])[0]).resolve())
