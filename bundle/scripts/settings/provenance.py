"""What produced a result: command, configuration, seed, versions, data, machine."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from scripts.data.seen_patients import training_records
from scripts.environment import machine, revision, versions
from scripts.files import flatten, sha256, write_json
from scripts.folders.cases import label_map
from scripts.running import merged_config, monai_command
from scripts.workflow import command_as_typed

__all__ = ["compare_with_training", "learning_settings", "record_run"]

logger = logging.getLogger(__name__)

LEARNING = (  # parts of the config that decide what is learnt, and how
    "fold", "seed", "strict", "student_sequence", "spacing", "preprocessing", "patches", "augmentation",
    "intensity_augmentation", "roi_size", "patch_ratios", "unlabelled_share", "unlabelled_ramp_up", "search_interval",
    "batch_size", "accumulation_steps", "student_widths", "deep_supervision", "network_def", "teachers", "fusion",
    "confidence", "distillation", "segmentation", "soft_target", "loss", "optimizer", "clip_gradient", "learning_rate",
    "student_learning_rate", "lr_scheduler", "warm_up_epochs", "distillation_warm_up", "targets",
    "target_values", "read_targets",
)  # fmt: skip


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
    weights = [ckpt_path] if isinstance(ckpt_path, str) else list(ckpt_path)
    document = {
        "command": monai_command(),
        "typed": command_as_typed(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "versions": versions(),
        "revision": revision(),
        "machine": machine(),
        "data": {"datalist": str(Path(datalist).resolve()), "sha256": sha256(datalist)} if datalist else None,
        "weights": {str(Path(path).resolve()): sha256(path) for path in weights},
        "cases": [absolute(case, output_dir) for case in cases],
        "configuration": plain(merged_config()),
        **about,
    }
    write_json(Path(output_dir, f"{stage}.json"), document)


def compare_with_training(ckpt_path: str | Sequence[str], **settings: Any) -> None:
    """Warn where the record of the weights' training has another value of a setting."""
    for path in [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path:
        for record, document in training_records(path):
            trained = document.get("configuration") or {}
            for key, value in plain(settings).items():
                then = None if trained.get(key) == "$None" else trained.get(key, value)
                if then != value:
                    typed = shlex.quote("$None" if then is None else str(then))
                    logger.warning(
                        f"{key} is {value!r}, but {path} was trained with {then!r} ({record}): pass --{key} {typed}."
                    )
            now, then = plain(merged_config()).get("preprocessing"), trained.get("preprocessing")
            if now and then and now != then:
                logger.warning(f"The preprocessing is not that of the training of {path}: add its --method ({record}).")


def learning_settings(datalist: str) -> dict[str, Any]:
    """What a resumed run may not change, by key: LEARNING, the data's checksum, the number of processes."""
    config = plain(merged_config())
    fixed = {"datalist": sha256(datalist), "number of processes": idist.get_world_size()}  # which share an epoch
    return fixed | dict(flatten({key: config[key] for key in LEARNING if key in config}))


def absolute(case: Mapping[str, Any], output_dir: str) -> dict[str, Any]:
    """The case's name, image, label, brain mask and label map, with paths that hold from any folder."""
    own = ("image", "label", "brain_mask")
    paths = {key: case[key] if isinstance(case[key], str) else case[key][0] for key in own if key in case}
    prediction = case.get("prediction") or label_map(output_dir, case["image"], case.get("case"))
    resolved = {key: str(Path(path).resolve()) for key, path in {**paths, "prediction": prediction}.items()}
    about = {key: case[key] for key in ("patient", "size", "time_ns", "channels", "dicom") if key in case}
    return {"case": case.get("case", Path(paths["image"]).name), **resolved, **about}


def plain(config: Any) -> Any:
    """The config as JSON holds it; an object that a program put there becomes its text."""
    return json.loads(json.dumps(config, default=str))
