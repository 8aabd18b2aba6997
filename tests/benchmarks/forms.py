"""Forms of distillation, as functions of a batch, for trainings side by side (side_by_side.py).

The forms that the product has are in scripts.losses; the others are here, so that the tables of docs/results.md can be
made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from scripts.labels import CLASSES, REGIONS
from scripts.losses import SoftTargetLoss, resize_label

__all__ = ["FORMS", "Batch"]


class Batch(NamedTuple):
    """What a form sees: logits (B, C, H, W, D), features (B, F, H/2, W/2, D/2), label (B, 1, H, W, D)."""

    student: torch.Tensor
    teachers: dict[str, torch.Tensor]
    feature: torch.Tensor  # of the student
    features: dict[str, torch.Tensor]
    label: torch.Tensor
    dice: dict[str, dict[str, float]]  # of kept teachers by region: mean over the training patches so far
    validated: Mapping[str, float]  # whole-tumour Dice of kept teachers on validation patients
    temperature: float


def soft_targets(batch: Batch) -> torch.Tensor:
    """Hinton et al. 2015, https://arxiv.org/abs/1503.02531."""
    return SoftTargetLoss(batch.temperature)(batch.student, batch.teachers["all"])


def whole_tumour(batch: Batch, teacher: str = "all") -> torch.Tensor:
    """Of tumour against background alone."""
    return SoftTargetLoss(batch.temperature, whole_tumour=True)(batch.student, batch.teachers[teacher])


def standardised(batch: Batch) -> torch.Tensor:
    """Logits less their mean over their deviation, T = 2: Sun et al. 2024, https://arxiv.org/abs/2403.01427."""
    pair = (batch.student.float(), batch.teachers["all"].float())
    student, teacher = ((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5) for x in pair)
    return SoftTargetLoss(2.0)(student, teacher)


def channel_wise(batch: Batch) -> torch.Tensor:
    """CWD, each class's distribution over the voxels: Shu et al. 2021, https://arxiv.org/abs/2011.13256."""
    t = batch.temperature
    student, teacher = ((x.float() / t).flatten(2).log_softmax(2) for x in (batch.student, batch.teachers["all"]))
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return t**2 * divergence / (student.shape[0] * student.shape[1])


def correlation(batch: Batch) -> torch.Tensor:
    """DIST, between classes and within each: Huang et al. 2022, https://arxiv.org/abs/2205.10536."""
    student, teacher = (x.float().softmax(1).flatten(2) for x in (batch.student, batch.teachers["all"]))
    return sum(1 - pearson(student, teacher, dim).mean() for dim in (1, 2))


def pearson(a: torch.Tensor, b: torch.Tensor, dim: int) -> torch.Tensor:
    return F.cosine_similarity(a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True), dim=dim)


def features(batch: Batch) -> torch.Tensor:
    """Cosine of the decoders' features, the student's through a 1³ convolution."""
    projected, teacher = batch.features["projected"].float(), batch.features["all"].float()
    return (1 - F.cosine_similarity(projected, teacher, dim=1)).mean()


def prototypes(batch: Batch) -> torch.Tensor:
    """How like each voxel's feature is to the mean of its class: Wang et al. 2020 (IFVD)."""
    label = resize_label(batch.label, batch.feature)
    return F.mse_loss(likeness(batch.feature, label), likeness(batch.features["all"], label))


def likeness(feature: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cosine of each voxel's feature with its class's mean in that volume, (B, voxels)."""
    voxels = feature.float().flatten(2)  # (B, F, N)
    truth = F.one_hot(label.flatten(1).long(), len(CLASSES)).float()  # (B, N, C)
    means = voxels @ truth / (truth.sum(1, keepdim=True) + 1e-6)  # (B, F, C)
    return F.cosine_similarity(voxels, means @ truth.transpose(1, 2), dim=1)


def three(batch: Batch) -> torch.Tensor:
    """Whole tumour of all kept teachers, equal weights."""
    return sum(whole_tumour(batch, name) for name in batch.validated) / len(batch.validated)


def validation(batch: Batch) -> torch.Tensor:
    """The same, weights in proportion to Dice on validation patients."""
    total = sum(batch.validated.values())
    return sum(dice / total * whole_tumour(batch, name) for name, dice in batch.validated.items())


def case(batch: Batch) -> torch.Tensor:
    """The same, in each patch of the one teacher with the least cross-entropy of tumour there."""
    truth = (batch.label[:, 0] > 0).long()
    pairs = {name: merged(batch.teachers[name], (1, 2, 3)) for name in batch.validated}
    errors = {name: F.cross_entropy(x, truth, reduction="none").mean((1, 2, 3)) for name, x in pairs.items()}
    best = [min(errors, key=lambda name: errors[name][index].item()) for index in range(len(truth))]
    target = torch.stack([batch.teachers[name][index] for index, name in enumerate(best)])
    return whole_tumour(batch._replace(teachers={"all": target}))


def region(batch: Batch) -> torch.Tensor:
    """Each region against the rest, weights in proportion to the teachers' Dice of that region in training."""
    soft = SoftTargetLoss(batch.temperature)
    loss = torch.zeros(())
    for name, classes in REGIONS:
        total = sum(batch.dice[name].values()) or 1
        for teacher, dice in batch.dice[name].items():
            loss = loss + dice / total * soft(merged(batch.student, classes), merged(batch.teachers[teacher], classes))
    return loss / len(REGIONS)


def merged(logits: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Logits of the rest and of these classes, (B, 2, H, W, D)."""
    rest = [index for index in range(logits.shape[1]) if index not in classes]
    return torch.stack([logits[:, part].float().logsumexp(1) for part in (rest, list(classes))], dim=1)


def mean_student(batch: Batch) -> torch.Tensor:
    """Whole tumour of the moving mean of the student itself: Tarvainen and Valpola 2017."""
    return whole_tumour(batch, "mean_student")


def mean_teacher(batch: Batch) -> torch.Tensor:
    """Whole tumour of the moving mean of a four-sequence teacher that goes on learning."""
    return whole_tumour(batch, "mean_teacher")


FORMS: dict[str, Callable[[Batch], torch.Tensor]] = {
    form.__name__: form
    for form in (
        soft_targets, whole_tumour, standardised, channel_wise, correlation, features, prototypes,
        three, validation, case, region, mean_student, mean_teacher,
    )
}  # fmt: skip
