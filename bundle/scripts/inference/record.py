"""inference.json of a folder: which label maps there are, of which images, and what made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.utils import ensure_tuple

from scripts.errors import UserError
from scripts.files import read_json, sha256
from scripts.folders.cases import maps_of
from scripts.locking import FolderLock
from scripts.settings.provenance import plain, record_run
from scripts.training.output_folder import forget_scores

__all__ = ["record_groups", "record_inference"]

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
    record = read_json(path, "output_dir", RECORD | {"earlier?": [RECORD]}) if path.is_file() else {}
    for group in (record, *record.get("earlier", [])):
        maps = [(case, path.with_name(Path(case["prediction"]).name)) for case in group.get("cases", [])]
        cases = [
            case | {"prediction": str(here)}
            for case, here in maps
            if planned or any(map(Path.is_file, maps_of(str(path.parent), case["image"], case.get("case"))))
        ]
        groups.append({"settings": group.get("settings", {}), "cases": cases})
    return groups


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

    Label maps to be overwritten are removed first, so that an old one cannot be taken for a new one. Maps of other
    settings that are not made again stay under ``earlier``, with their settings. Shards take turns to add theirs.

    Raises:
        UserError: if label maps in the folder were made by other weights or settings, and are not overwritten.
    """
    lock = FolderLock(output_dir, wait=WAIT)  # until the end
    weights = [sha256(path) for path in ensure_tuple(ckpt_path)]
    settings = plain({**settings, "weights": weights})  # as a record holds them: (2.0, 2.0, 2) is [2.0, 2.0, 2]
    made = {path.name for path in Path(output_dir).glob("*_seg.nii.gz")}  # faulty now, not when their map was made
    images = [image for image in images if "fault" not in image or f"{image['case']}_seg.nii.gz" not in made]
    groups = record_groups(output_dir, planned=bool(shard))
    if not overwrite:
        check_settings(groups, settings, output_dir, bool(shard))
    now = {image["case"] for image in images}
    rest = [group | {"cases": [case for case in group["cases"] if case.get("case") not in now]} for group in groups]
    same = [case for group in rest if not differing(group, settings) for case in group["cases"]]
    others = [group for group in rest if differing(group, settings) and group["cases"]]
    if overwrite and idist.get_rank() == 0:
        forget_scores(output_dir)
        for path in (path for image in images for path in maps_of(output_dir, image["image"], image["case"])):
            path.unlink(missing_ok=True)
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
