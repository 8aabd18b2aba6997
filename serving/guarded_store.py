"""MONAI Label's store with checks: it changes only its own folder, and takes only labels whose values have a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from monai.transforms import LoadImage

EARLIER_ET = 4  # in labels that were submitted when the server's value of ET was 4; training takes it as ET


def guard(store: Any, folder: str, names: Callable[[], Mapping[str, int]]) -> Any:
    """The store, whose methods that write or delete answer 4xx where MONAI Label would change a patient's file.

    Args:
        store: of MONAI Label.
        folder: that the server works in: the patients' volumes are links there. Of a DICOMweb server its copies.
        names: gives the value of each class by its name.
    """
    add, remove, save = store.add_image, store.remove_image, store.save_label

    def add_image(image: str, file: str, *info: Any) -> str:
        check_place(f"image {image!r}", Path(folder, image + "".join(Path(file).suffixes)), Path(folder))
        if known := find_image(image, store):
            check_place(f"image {image!r}", Path(known), Path(folder))
        return add(image, file, *info)

    def remove_image(image: str) -> None:
        check_image(image, store)
        check_place(f"image {image!r}", Path(find_image(image, store)), Path(folder))
        remove(image)

    def save_label(image: str, file: str, tag: str, *info: Any) -> str:
        check_image(image, store)
        check_place(f"tag {tag!r}", Path(folder, "labels", tag), Path(folder, "labels"))
        check_values(f"label of {image!r}", file, names())
        return save(image, file, tag, *info)

    store.add_image, store.remove_image, store.save_label = add_image, remove_image, save_label
    return store


def find_image(image: str, store: Any) -> str:
    """Path of an image; "" for one that the store does not know."""
    try:
        return str(store.get_image_uri(image))
    except Exception:  # a DICOMweb server says it in many ways
        return ""


def check_image(image: Any, store: Any) -> None:
    """Raise a 404 for the name of an image that neither the studies nor the file system hold."""
    if not isinstance(image, str) or Path(image).exists() or find_image(image, store):
        return
    names = sorted(store.list_images())
    some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise HTTPException(404, f"image is {image!r}, which is not among the studies: {some or 'there are none'}.")


def check_place(what: str, path: Path, folder: Path) -> None:
    """Raise a 403 for a path that leads out of the folder, as a link to a patient's file does."""
    if path.resolve().parent != folder.resolve():
        why = "is a patient's file, or outside the server's folder: nothing there is replaced or deleted."
        raise HTTPException(403, f"{what} {why}")


def check_values(label: str, file: str, names: Mapping[str, int], earlier: bool = False) -> None:
    """Raise a 422 for a label with a value that has no name.

    Args:
        label: what to call it.
        file: an image, or the bytes of its voxels that OHIF sends (.bin).
        names: value of each class by its name.
        earlier: take labels of an earlier server too, where ET may be 4 instead of 3.
    """
    try:
        voxels = np.fromfile(file, np.uint8) if str(file).endswith(".bin") else LoadImage(image_only=True)(file)
    except Exception as error:  # the readers fail in many ways
        raise HTTPException(422, f"{label} cannot be read ({type(error).__name__}): send NIfTI (.nii.gz).") from error
    found = {float(value) for value in np.unique(np.asarray(voxels))}
    if earlier and names["et"] not in found:
        found.discard(EARLIER_ET)
    if unknown := found - {0, *names.values()}:
        held = ", ".join(f"{value:g}" for value in sorted(unknown))
        expected = ", ".join(f"{value} {name}" for name, value in names.items())
        raise HTTPException(422, f"{label} holds {held}, expected 0 background, {expected}.")
