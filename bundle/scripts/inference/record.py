"""inference.json of a folder: which label maps there are, of which images, and what made them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from scripts.errors import UserError
from scripts.files import read_json, sha256, write_json
from scripts.folders.cases import maps_of
from scripts.locking import FolderLock
from scripts.settings.provenance import absolute, plain, record_run
from scripts.training.output_folder import forget_scores

__all__ = ["ForgetEarlierd", "record_groups", "record_inference"]

CASE = {"case?": str, "image": str, "prediction": str, "size?": int, "time_ns?": int}
CASE |= {"brain_mask?": str, "dicom?": dict}
RECORD = {"cases?": [CASE], "settings?": dict}
WAIT = 120  # seconds, while other shards write the record


def record_groups(output_dir: str, planned: bool = False) -> list[dict[str, Any]]:
    """Settings and cases of earlier inferences into the folder, a group for each settings; cases with files there.

    Args:
        output_dir: the folder.
        planned: also take cases without a file, which another shard may be predicting.

    Raises:
        UserError: if inference.json has another form.
    """
    path, groups = Path(output_dir).resolve() / "inference.json", []
    record = read_record(path) if path.is_file() else {}
    for group in (record, *record.get("earlier", [])):
        maps = [(case, path.with_name(Path(case["prediction"]).name)) for case in group.get("cases", [])]
        cases = [
            case | {"prediction": str(here)}
            for case, here in maps
            if planned or any(map(Path.is_file, maps_of(str(path.parent), case["image"], case.get("case"))))
        ]
        groups.append({"settings": group.get("settings", {}), "cases": cases})
    return groups


def read_record(path: Path) -> dict[str, Any]:
    """An inference.json. Raises UserError if it has another form."""
    try:
        return read_json(path, "output_dir", RECORD | {"earlier?": [RECORD]})
    except UserError as error:
        fault = str(error).rpartition(": ")[0]
        raise UserError(f"{fault}: predict into another output_dir; the label maps in this one stay.") from error


def record_inference(
    output_dir: str,
    images: Sequence[Mapping[str, Any]],
    ckpt_path: str | Sequence[str],
    settings: Mapping[str, Any],
    overwrite: bool = False,
    label_values: Sequence[int] | None = None,
    shard: str = "",
) -> None:
    """Write inference.json: images of this run and of earlier ones into the folder, and what made their label maps.

    A case that is to be overwritten keeps its entry and settings until ForgetEarlierd replaces them. Maps of other
    settings that are not made again stay under ``earlier``, with their settings. Shards take turns to add theirs.

    Raises:
        UserError: if label maps in the folder were made by other weights or settings, and are not overwritten.
    """
    lock = FolderLock(output_dir, wait=WAIT)  # until the end
    weights = [sha256(path) for path in ensure_tuple(ckpt_path)]
    settings = plain({**settings, "weights": weights})  # as a record holds them: (2.0, 2.0, 2) is [2.0, 2.0, 2]
    images = [image for image in images if not (overwrite or "fault" in image) or not files_of(image, output_dir)]
    groups = record_groups(output_dir, planned=bool(shard))
    if not overwrite:
        check_settings(groups, settings, output_dir, bool(shard))
    now = {image["case"] for image in images}
    rest = [group | {"cases": [case for case in group["cases"] if case.get("case") not in now]} for group in groups]
    same = [case for group in rest if not differing(group, settings) for case in group["cases"]]
    others = [group for group in rest if differing(group, settings) and group["cases"]]
    if overwrite and idist.get_rank() == 0:
        forget_scores(output_dir)
    record_run(
        output_dir,
        "inference",
        ckpt_path=ckpt_path,
        cases=[*same, *images],
        settings=settings,
        earlier=others,
        label_values=label_values,
    )
    del lock


def files_of(image: Mapping[str, Any], output_dir: str) -> list[Path]:
    """The files that an inference made of an image: its label map, and others beside it."""
    return [path for path in maps_of(output_dir, image["image"], image["case"]) if path.is_file()]


class ForgetEarlierd(MapTransform):
    """Removes a case's files of an earlier inference, and its entry in the record, for the new ones.

    It stands behind the network, so that a case that fails keeps its files and the settings that made them.

    Args:
        keys: what the network computed, which passes unchanged.
        output_dir: the folder.
        images: as for ``record_inference``.
    """

    def __init__(self, keys: KeysCollection, output_dir: str, images: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(keys)
        self.output_dir = output_dir
        self.images = {image["case"]: image for image in images}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = self.images[data["case"]]
        if files := files_of(image, self.output_dir):
            for path in files:
                path.unlink()
            move_entry(image, self.output_dir)
        return dict(data)


def move_entry(image: Mapping[str, Any], output_dir: str) -> None:
    """Let the record say that the settings of now make the files of an image."""
    path, lock = Path(output_dir, "inference.json"), FolderLock(output_dir, wait=WAIT)
    record = read_record(path)
    for group in (record, *record.get("earlier", [])):
        group["cases"] = [case for case in group["cases"] if case.get("case") != image["case"]]
    record["cases"].append(absolute(image, output_dir))
    record["earlier"] = [group for group in record.get("earlier", []) if group["cases"]]
    write_json(path, record)
    del lock


def differing(group: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that a group of cases was not made with."""
    return sorted(key for key in settings if group["settings"].get(key) != settings[key])


def check_settings(
    groups: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], output_dir: str, planned: bool
) -> None:
    """Raises UserError if a group of cases in the folder was made, or is planned, with other settings."""
    for group in groups:
        if group["cases"] and (keys := differing(group, settings)):
            values = [f"{key} ({group['settings'].get(key)} there, {settings[key]} here)" for key in keys]
            shown = ", ".join(text if len(text) < 80 else key for key, text in zip(keys, values))
            made = "made or planned" if planned else "made"
            raise UserError(
                f"{output_dir} holds {len(group['cases'])} label map(s) {made} with other {shown}: give another "
                "output_dir, the same settings, or --overwrite True to predict them again."
            )
