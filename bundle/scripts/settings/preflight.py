"""Checks before a training starts of what the settings built: networks, loss, augmentation, patients, processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ignite.distributed as idist
import torch
from monai.transforms import Compose
from monai.utils import CommonKeys, fall_back_tuple

from scripts.data.augmentation import PrepareAugmentedBatch
from scripts.data.seen_patients import warn_of_seen_patients
from scripts.errors import UserError, reason_of
from scripts.labels import CLASSES
from scripts.method.distillation import DistillationNetwork
from scripts.method.features import output_shape, without_values
from scripts.method.terms import DistillationLoss

logger = logging.getLogger(__name__)


def check_training(
    networks: DistillationNetwork,
    loss: DistillationLoss,
    teachers: Collection[str],
    augmentation: Compose | None,
    roi_size: Sequence[int],
    sequences: Sequence[str],
    gaps: bool,
    cases: Mapping[str, Sequence[Mapping[str, Any]]],
    val_interval: int,
    epochs: int,
    window_size: Sequence[int] | int,
) -> None:
    """Check everything that would fail, or mislead, after the first steps of a training.

    Raises:
        UserError: names the key, what was found and what to do.
    """
    if val_interval > epochs:
        raise UserError(f"val_interval is {val_interval}, expected at most epochs, {epochs}: else no student is saved.")
    if rest := epochs % val_interval:
        logger.warning(
            f"The last validation is at epoch {epochs - rest} of {epochs}: no student of later ones is kept."
        )
    check_processes(idist.get_world_size(), len(cases["validation"]))
    check_networks(networks, roi_size, window_size)
    check_fusion(networks, roi_size)
    for name, term in getattr(loss, "terms", {}).items():
        if isinstance(teacher := getattr(term, "teacher", None), str) and teacher not in teachers:
            raise UserError(f"loss::terms::{name}::teacher is {teacher!r}, expected one of {sorted(teachers)}.")
    check_augmentation(augmentation, sequences, roi_size, len(networks.student_sequences), gaps)


def check_evaluation(cases: Sequence[Mapping[str, Any]], ckpt_path: str | Sequence[str]) -> None:
    """Check the processes of an evaluation, and warn of patients that the weights were trained on.

    Raises:
        UserError: for several files of weights, or fewer patients than processes.
    """
    if not isinstance(ckpt_path, str):
        raise UserError(f"ckpt_path is {list(ckpt_path)}, expected one file: predict takes an ensemble, then score.")
    check_processes(idist.get_world_size(), len(cases))
    warn_of_seen_patients(ckpt_path, cases)


def check_processes(processes: int = 1, patients: int | None = None) -> None:
    """Check that so many processes work together, and that each has a patient to validate on (None: as in inference).

    Raises:
        UserError: if torchrun started more processes, or if there are fewer patients than processes.
    """
    if (started := int(os.environ.get("WORLD_SIZE", 1))) > processes:
        alone, together = "start the command without torchrun", "add 'configs/multi_gpu_train.yaml' to --config_file"
        raise UserError(
            f"torchrun started {started} processes, but each would do the whole work and overwrite the others' files: "
            f"{alone if patients is None else together}."
        )
    if patients is not None and patients < processes and processes > 1:
        raise UserError(
            f"{processes} processes share {patients} validation patient(s), expected at least one each: start fewer "
            "processes, or validate on more patients (python -m scripts datalist --folds)."
        )


def check_networks(networks: DistillationNetwork, roi_size: Sequence[int], window: Sequence[int] | int = -1) -> None:
    """Check that networks take a patch of their sequences, the student also a window, and give logits of the classes.

    Shapes alone are computed, so this takes no time and no memory.

    Raises:
        UserError: names the network, the patch, and what is wrong with it.
    """
    student = networks.student_sequences
    named: dict[str, Any] = {"network_def": (networks.student, student, len(student))}
    named |= {f"teachers::{k}::network": (t.network, t.sequences, t.channels) for k, t in networks.teachers.items()}
    sizes = [(key, *one, "roi_size", roi_size) for key, one in named.items()]
    sizes += [("network_def", *named["network_def"], "window_size", fall_back_tuple(window, roi_size))]
    for key, network, sequences, channels, name, size in sizes:
        patch = (2, channels, *size)  # two, for networks with batch normalisation
        given = f"{key} ({type(network).__name__}) with patches of {', '.join(sequences)}, {patch} ({name}),"
        try:
            logits = output_shape(network, patch)
        except (RuntimeError, ValueError) as error:
            if "meta" in str(error):
                continue  # it looks at values, which are not there
            raise UserError(f"{given} fails: {reason_of(error)}. Change the network, in_channels or {name}.") from error
        if logits != (expected := (2, len(CLASSES), *size)):
            way = "change its out_channels, or see regions in docs/extend.md"
            raise UserError(f"{given} gives logits of shape {logits}, expected {expected}: {way}.")


def check_fusion(networks: DistillationNetwork, roi_size: Sequence[int]) -> None:
    """Check that the fusion takes the features of its teachers. Raises UserError, which names their shapes."""
    if networks.fusion is None:
        return
    patch, features = torch.empty((2, 1, *roi_size), device="meta"), {}
    for name, teacher in ((name, networks.teachers[name]) for name in networks.fusion.teachers):
        with suppress(RuntimeError):  # it looks at values, which are not there
            features[name] = without_values(teacher, dict.fromkeys(teacher.sequences, patch))[1]
    if len(features) < len(networks.fusion.teachers):
        return
    try:
        without_values(networks.fusion, features)
    except (RuntimeError, ValueError, TypeError) as error:
        if "meta" in str(error):
            return
        shapes = "; ".join(f"{name} {[tuple(level.shape[1:]) for level in own]}" for name, own in features.items())
        raise UserError(
            f"fusion fails on features (channels, height, width, depth) of {shapes}: {reason_of(error)}. Set "
            "fusion::in_channels::NAME to their channels, and choose feature_layers of one size at each level."
        ) from error


def check_augmentation(
    augmentation: Compose | None,
    sequences: Sequence[str],
    roi_size: Sequence[int],
    channels: int = 1,
    gaps: bool = False,
) -> None:
    """Check that the augmentation of a patch of zeros gives such a patch again; with gaps, also of the image alone.

    Raises:
        UserError: names what it does.
    """
    prepare = PrepareAugmentedBatch(augmentation, sequences)
    patch = torch.zeros(1, 1, *roi_size)
    batch = dict.fromkeys(prepare.keys, patch)
    batch |= {CommonKeys.IMAGE: patch.expand(-1, channels, -1, -1, -1), CommonKeys.LABEL: patch.byte()}
    try:
        prepare(batch)
        if gaps and augmentation is not None:
            prepare.augment({CommonKeys.IMAGE: batch[CommonKeys.IMAGE][0]})
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = reason_of(error.__cause__ or error)
        raise UserError(f"augmentation fails on a patch of {tuple(roi_size)}: {reason}. Change it.") from error
