"""What a resumed run may not change."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
from monai.bundle import ConfigParser

from scripts.files import flatten, sha256
from scripts.labels import TARGETS
from scripts.running import merged_config
from scripts.settings.config import CONFIGS
from scripts.settings.provenance import plain

LEARNING = (  # parts of the config that decide what is learnt, and how
    "fold", "seed", "strict", "student_sequence", "spacing", "preprocessing", "patches", "augmentation",
    "intensity_augmentation", "roi_size", "patch_ratios", "found_tumour", "unlabelled_share", "unlabelled_ramp_up",
    "search_interval",
    "batch_size", "accumulation_steps", "student_widths", "deep_supervision", "network_def", "teachers", "fusion",
    "confidence", "distillation", "segmentation", "soft_target", "loss", "optimizer", "clip_gradient", "learning_rate",
    "student_learning_rate", "lr_scheduler", "warm_up_epochs", "distillation_warm_up", "target_values", "read_targets",
)  # fmt: skip
LATER = (  # of which checkpoints of older versions say nothing; the last four choose model.pt
    "train::sampler", "pad", "read_label", "window_size", "overlap", "mirror", "whole_volume",
)  # fmt: skip


def learning_settings(datalist: str, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By key: LEARNING and what it refers to, LATER, the data's checksum, cases and targets, number of processes.

    Args:
        datalist: the data's list.
        cases: for training; MONAI Label's have no name. Stored targets are known by case and size: a folder may move.
    """
    config, base = plain(merged_config()), ConfigParser.load_config_file(CONFIGS / "train.yaml")
    parts = {key: config[key] for key in LEARNING if key in config}
    while own := [key for key in referred_to(parts) if key in config.keys() - base.keys() - parts.keys()]:
        parts |= {key: config[key] for key in own}  # keys of the user's own
    parts |= {key: config[key] for key in LATER if key in config}
    engine = {name: config.get("train", {}).get(name, {}) for name in ("dataloader", "trainer", "sampler")}
    engine["trainer"] = {key: value for key, value in engine["trainer"].items() if key != "max_epochs"}
    parts["train"] = engine
    stored = [(case["case"], os.path.getsize(case[TARGETS])) for case in cases if TARGETS in case]
    fixed = {
        "datalist": sha256(datalist),
        "training cases": digest(case.get("case", case["image"]) for case in cases),
        "files of targets": digest(stored),
        "number of processes": idist.get_world_size(),  # which share an epoch
    }
    return fixed | dict(flatten(parts))


def compared_keys(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """Keys by which a resumed run is compared with its checkpoint: all but the parts of LATER that this lacks."""
    lacking = tuple(f"{part}::" for part in LATER if not any(f"{key}::".startswith(f"{part}::") for key in then))
    return [key for key in {**now, **then} if not f"{key}::".startswith(lacking)]


def referred_to(parts: Any) -> list[str]:
    """Keys at the top of the config to which its parts refer."""
    return sorted(set(re.findall(r"[@%](\w+)", str(parts))))


def digest(items: Iterable[Any]) -> str:
    """How many there are, and a short checksum of them."""
    texts = sorted(map(str, items))
    return f"{len(texts)} ({hashlib.sha256(repr(texts).encode()).hexdigest()[:8]})"
