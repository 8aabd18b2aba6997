"""inference.json of a folder: which label maps there are, of which images, and what made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.utils import ensure_tuple

from scripts.errors import UserError
from scripts.files import read_json, sha256, write_json
from scripts.folders.case import SERIES, inside
from scripts.folders.earlier_scores import forget_scores
from scripts.folders.map_files import label_map, maps_of
from scripts.locking import FolderLock
from scripts.running import merged_config
from scripts.settings.provenance import absolute, plain, record_run, without_modules

CASE: dict[str, Any] = {"case?": str, "image": str, "prediction": str, "size?": int, "time_ns?": int}
CASE |= {"brain_mask?": str, "dicom?": SERIES}
RECORD = {"cases?": [CASE], "settings?": dict}
PARTS = ("network_def", "preprocessing", "inferer", "averaging", "label_map")  # of the config
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
        maps = [(case, inside(path.parent, case["prediction"])) for case in group.get("cases", [])]
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

    A case that is to be overwritten keeps its entry and settings until a Replacement moves it. Maps of other
    settings that are not made again stay under ``earlier``, with their settings. Shards take turns to add theirs.

    Raises:
        UserError: if label maps in the folder were made by other weights or settings, and are not overwritten.
    """
    lock = FolderLock(output_dir, wait=WAIT)  # until the end
    settings = what_made(settings, ckpt_path)
    images = [image for image in images if not (overwrite or "fault" in image) or not files_of(image, output_dir)]
    groups = record_groups(output_dir, planned=bool(shard))
    if not overwrite:
        check_settings(groups, settings, output_dir, bool(shard))
    now = {label_map(output_dir, image["image"], image["case"]).name for image in images}
    rest = [group | {"cases": [case for case in group["cases"] if map_name(case) not in now]} for group in groups]
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


class Replacement:
    """A handler that hears of each case that is written. It removes earlier files that were not made again, also those
    beside a label map that the user removed; and it moves the entry of a case that is overwritten to the settings of
    now. So a case that fails keeps its files and their settings.

    Args:
        output_dir, images, ckpt_path, settings, overwrite: as for ``record_inference``.
    """

    def __init__(
        self,
        output_dir: str,
        images: Sequence[Mapping[str, Any]],
        ckpt_path: str | Sequence[str],
        settings: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.output_dir = output_dir
        self.settings = what_made(settings, ckpt_path)
        files = {image["case"]: files_of(image, output_dir) for image in images}
        maps = {image["case"]: label_map(output_dir, image["image"], image["case"]) for image in images}
        made_again = {image["case"]: image for image in images if overwrite or not maps[image["case"]].is_file()}
        self.images = {case: image for case, image in made_again.items() if overwrite and files[case]}
        self.files = {case: {path: path.stat().st_ino for path in files[case]} for case in made_again}

    def attach(self, engine: Any) -> None:
        """Listen to a Predictor."""
        engine.written = self

    def __call__(self, case: str) -> None:
        for path, number in self.files.get(case, {}).items():
            if path.is_file() and path.stat().st_ino == number:  # a new file has another number
                path.unlink()
        if image := self.images.get(case):
            move_entry(image, self.output_dir, self.settings)


def what_made(settings: Mapping[str, Any], ckpt_path: str | Sequence[str]) -> dict[str, Any]:
    """Settings, parts of the config and checksums of the weights, as a record holds them: (2.0, 2) is [2.0, 2]."""
    config = plain(merged_config())
    parts = {key: without_modules(str(config[key])) for key in PARTS if key in config}
    return plain({**settings, **parts, "weights": [sha256(path) for path in ensure_tuple(ckpt_path)]})


def move_entry(image: Mapping[str, Any], output_dir: str, settings: Mapping[str, Any]) -> None:
    """Let the record say that these settings made the files of an image."""
    path, lock = Path(output_dir, "inference.json"), FolderLock(output_dir, wait=WAIT)
    record, entry = read_record(path), absolute(image, output_dir)
    groups = [record, *record.get("earlier", [])]
    for group in groups:
        group["cases"] = [case for case in group.get("cases", []) if map_name(case) != map_name(entry)]
    made: dict[str, Any] = {"settings": settings, "cases": []}
    made = next((group for group in groups if not differing(group, settings)), made)
    made["cases"].append(entry)
    record["earlier"] = [group for group in [*groups[1:], *([] if made in groups else [made])] if group["cases"]]
    write_json(path, record)
    del lock


def map_name(case: Mapping[str, Any]) -> str:
    """File name of an entry's label map, which tells the case."""
    return Path(case["prediction"]).name


def differing(group: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that a group of cases was not made with. Records of earlier versions lack some."""
    then = group["settings"]
    return sorted(key for key in settings if not then or then.get(key, settings[key]) != settings[key])


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
