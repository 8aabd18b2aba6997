"""What produced a result: command, configuration, seed, versions, data, machine."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.utils import ensure_tuple

from scripts.data.seen_patients import training_records
from scripts.environment import machine, revision, versions
from scripts.files import sha256, write_json
from scripts.folders.map_files import label_map
from scripts.running import merged_config, monai_command
from scripts.workflow import command_as_typed

logger = logging.getLogger(__name__)


def record_run(
    output_dir: str,
    stage: str,
    seed: int | None = None,
    datalist: str = "",
    ckpt_path: str | Sequence[str] = (),
    cases: Sequence[Mapping[str, Any]] = (),
    **about: Any,
) -> None:
    """Write STAGE.json, from which a run can be repeated and its report drawn. On rank 0.

    Args:
        output_dir: where to write.
        stage: training, evaluation or inference.
        seed: of everything random.
        datalist: the data's list, whose checksum stands for the data: it holds a checksum of each case.
        ckpt_path: weights, whose checksums are noted.
        cases: the patients worked on, with paths.
        about: further facts.
    """
    if idist.get_rank() > 0:
        return
    document = {
        "command": monai_command(),
        "typed": command_as_typed(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "versions": versions(),
        "revision": revision(),
        "machine": machine(),
        "data": {"datalist": str(Path(datalist).resolve()), "sha256": sha256(datalist)} if datalist else None,
        "weights": {str(Path(path).resolve()): sha256(path) for path in ensure_tuple(ckpt_path)},
        "cases": [absolute(case, output_dir) for case in cases],
        "configuration": plain(merged_config()),
        **about,
    }
    write_json(Path(output_dir, f"{stage}.json"), document)


def compare_with_training(
    ckpt_path: str | Sequence[str], names: Mapping[str, str] | None = None, **settings: Any
) -> None:
    """Warn where the record of the weights' training has another value of a setting; ``names`` renames some."""
    for path in ensure_tuple(ckpt_path):
        for record, document in training_records(path):
            trained = document.get("configuration") or {}
            network = merged_config().get("network_def", "@student_widths")  # one of the user's own may have no widths
            for key, value in plain(settings).items():
                if key == "student_widths" and f"@{key}" not in str(network):
                    continue
                then = None if trained.get(key) == "$None" else trained.get(key, value)
                if ensure_tuple(then) != ensure_tuple(value):
                    typed, name = shlex.quote("$None" if then is None else str(then)), (names or {}).get(key, key)
                    logger.warning(
                        f"{name} is {value!r}, but {path} was trained with {then!r} ({record}): pass --{name} {typed}."
                    )
            now, then = plain(merged_config()).get("preprocessing"), trained.get("preprocessing")
            if now and then and without_modules(str(now)) != without_modules(str(then)):
                logger.warning(f"The preprocessing is not that of the training of {path}: add its --method ({record}).")


def absolute(case: Mapping[str, Any], output_dir: str) -> dict[str, Any]:
    """The case's name, image, label, brain mask and label map, with paths that hold from any folder.

    Of several sequences ``image`` is the first one, and ``images`` are all of them.
    """
    own = ("image", "label", "brain_mask")
    paths = {key: case[key] if isinstance(case[key], str) else case[key][0] for key in own if key in case}
    prediction = case.get("prediction") or label_map(output_dir, case["image"], case.get("case"))
    resolved = {key: str(Path(path).resolve()) for key, path in {**paths, "prediction": prediction}.items()}
    about = {key: case[key] for key in ("patient", "size", "time_ns", "channels", "dicom", "images") if key in case}
    if not isinstance(case["image"], str):
        about["images"] = [str(Path(path).resolve()) for path in case["image"]]
    return {"case": case.get("case", Path(paths["image"]).name), **resolved, **about}


def plain(config: Any) -> Any:
    """The config as JSON holds it; an object that a program put there becomes its text."""
    return json.loads(json.dumps(config, default=str))


def without_modules(text: str) -> str:
    """A config's text with the bundle's classes by name alone, so that a class may move to another file."""
    return re.sub(r"\bscripts\.(\w+\.)+", "", text)
