"""What the values in a folder's label maps mean, where a document there says it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import NoneType
from typing import Any

from scripts.errors import UserError
from scripts.files import read_json, read_own_json
from scripts.folders.task_folders import nnunet_values, part
from scripts.labels import CLASSES, VALUE_NAMES, lenient_values

logger = logging.getLogger(__name__)


def folder_values(folder: str, key: str) -> Any:
    """Values of background, NCR, ED and ET in a folder's label maps; None if nothing says them.

    The record of a run in the folder says them. Else a dataset.json with labels does, in the folder, where nnU-Net
    writes it with its predictions, or in the one above, as of labelsTr.

    Args:
        folder: of the label maps.
        key: the option that says the values in its place, for messages.

    Raises:
        UserError: if a dataset.json says something else.
    """
    here = Path(folder).absolute()
    for where in (here / "evaluation.json", here / "inference.json"):
        form = {"cases": list, "label_values?": (list, NoneType)}
        if where.is_file() and (record := read_own_json(where, key, form)) is not None:
            return lenient_values(record.get("label_values"))
    for where in filter(Path.is_file, (here / "dataset.json", here.parent / "dataset.json")):
        try:
            values = labels_of(where, key)
        except UserError as error:
            raise UserError(f"{error} For {folder} alone: pass --{key} ({VALUE_NAMES}).") from error
        if values:
            meaning = ", ".join(f"{value} is {name}" for value, name in zip(values, CLASSES))
            logger.info(f"{where} says what the values in {folder} mean: {meaning}. --{key} would override it.")
            return values
    return None


def labels_of(where: Path, key: str) -> list[int]:
    """Values of background, NCR, ED and ET by a dataset.json; none if it has no labels."""
    spec = read_json(where, key)
    return list(nnunet_values(part(spec, "labels", where.parent), where)) if "labels" in spec else []
