"""What produced a result: command, configuration, seed, versions, data, machine."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import yaml
from monai.bundle import ConfigParser

from scripts.output import label_map
from scripts.overrides import bundle_options
from scripts.records import write_json

__all__ = [
    "compare_with_training",
    "forget_earlier_run",
    "forget_scores",
    "learning_settings",
    "record_run",
    "sha256",
    "training_records",
]

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "scipy", "nibabel")
SCORES = ("metrics.csv", "metrics.json", "metrics_et_cleared.csv", "metrics_et_cleared.json", "calibration.csv")
LEARNING = (  # parts of the config that decide what is learnt, and how
    "fold", "seed", "strict", "student_sequence", "sequences", "spacing", "preprocessing", "patches", "augmentation",
    "roi_size", "patch_ratios", "batch_size", "accumulation_steps", "student_widths", "teacher_widths",
    "deep_supervision", "network_def", "teachers", "teacher_checkpoint", "fusion", "confidence", "distillation", "loss",
    "optimizer", "learning_rate", "student_learning_rate", "lr_scheduler", "warm_up_epochs", "lr_from_validation",
    "distillation_warm_up",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]


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
        "command": shlex.join(["python", "-m", "monai.bundle", *sys.argv[1:]]) if bundle_options() else None,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "versions": {"bundle": bundle_version(), "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "revision": revision(),
        "machine": machine(),
        "data": {"datalist": str(Path(datalist).resolve()), "sha256": sha256(datalist)} if datalist else None,
        "weights": {str(Path(path).resolve()): sha256(path) for path in weights},
        "cases": [absolute(case, output_dir) for case in cases],
        "configuration": configuration(),
        **about,
    }
    write_json(Path(output_dir, f"{stage}.json"), document)


def forget_earlier_run(output_dir: str, ckpt_dir: str, resume: bool | str) -> None:
    """Remove an earlier run's history, scores and student from the folder of a new training, which they are not of.

    Args:
        output_dir: of the training; its label maps stay.
        ckpt_dir: where the training keeps checkpoint.pt; model.pt stays if this is not in output_dir, since it may be
            that of the bundle itself.
        resume: as for RunCheckpoint; a run that goes on keeps everything.
    """
    goes_on = resume and (resume != "auto" or Path(ckpt_dir, "checkpoint.pt").is_file())
    if not goes_on and idist.get_rank() == 0:
        remove(output_dir, (*SCORES, "history.csv", "evaluation.json", "mlflow.json"), "a new training begins")
        if Path(output_dir).resolve() in Path(ckpt_dir).resolve().parents:
            remove(ckpt_dir, ["model.pt"], "a new training begins")


def forget_scores(output_dir: str) -> None:
    """Remove the scores of label maps that are made anew."""
    remove(output_dir, SCORES, "label maps are made anew")


def remove(folder: str, patterns: Sequence[str], reason: str) -> None:
    found = [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]
    for path in found:
        path.unlink()
    if found:
        names = ", ".join(path.name for path in found)
        logger.warning(f"{folder}: {names} of an earlier run removed, since {reason}.")


def compare_with_training(ckpt_path: str | Sequence[str], **settings: Any) -> None:
    """Warn where the record of the weights' training has another value of a setting."""
    for path in [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path:
        for record, document in training_records(path):
            trained = document.get("configuration") or {}
            for key, value in settings.items():
                then = None if trained.get(key) == "$None" else trained.get(key, value)
                if then != value:
                    logger.warning(
                        f"{key} is {value!r}, but {path} was trained with {then!r} ({record}): pass --{key}."
                    )


def training_records(weights: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What is written of the training of a file of weights, and where.

    That is training.json in the folder above theirs, or docs/trained_on.json there, as for the shipped weights.
    """
    folder = Path(weights).resolve().parents[1]
    for record in filter(Path.is_file, (folder / "training.json", folder / "docs" / "trained_on.json")):
        yield record, json.loads(record.read_text())


def learning_settings(datalist: str) -> dict[str, Any]:
    """What a resumed run may not change: the data's checksum, the number of processes, and each value of LEARNING by
    its option's name.

    Where a program called MONAI there is no command line to take the values from: then the first two alone.
    """
    config = configuration() or {}
    fixed = {"datalist": sha256(datalist), "number of processes": idist.get_world_size()}  # which share an epoch
    return fixed | leaves({key: config[key] for key in LEARNING if key in config})


def leaves(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings, and of mappings in lists, by path: {"a": [{"b": 1}]} -> {"a::0::b": 1}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        found |= leaves(value, f"{prefix}{key}::") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def sha256(path: str) -> str:
    """Checksum of a file, in hexadecimal; of no file ("") that of nothing."""
    return hashlib.sha256(Path(path).read_bytes() if path else b"").hexdigest()


def absolute(case: Mapping[str, Any], output_dir: str) -> dict[str, Any]:
    """The case's name, image, label and label map, with paths that hold from any folder."""
    paths = {
        key: case[key] if isinstance(case[key], str) else case[key][0] for key in ("image", "label") if key in case
    }
    prediction = case.get("prediction") or label_map(output_dir, case["image"])
    channels = {"channels": case["channels"]} if "channels" in case else {}
    resolved = {key: str(Path(path).resolve()) for key, path in {**paths, "prediction": prediction}.items()}
    return {"case": case.get("case", Path(paths["image"]).name), **resolved, **channels}


def configuration() -> dict[str, Any] | None:
    """The merged config with the command's overrides, before it is resolved; None where a program called MONAI."""
    options = bundle_options()
    if "config_file" not in options:
        return None
    parser = ConfigParser()
    parser.read_config(yaml.safe_load(str(options["config_file"])))
    parser.update({key: yaml.safe_load(str(value)) for key, value in options.items() if key != "config_file"})
    return yaml.safe_load(yaml.safe_dump(parser.get()))


def bundle_version() -> str:
    return str(ConfigParser.load_config_file(ROOT / "configs" / "metadata.json")["version"])


def revision() -> str | None:
    """The commit of the bundle's checkout, with "+" where files differ from it; None outside of one."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.is_file()
        else []
    )
    return {
        "system": platform.platform(),
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "processes": idist.get_world_size(),
    }
