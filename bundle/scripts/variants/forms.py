"""Other forms of distillation than the paper's, each used by YAML alone. Four take the place of SoftTargetLoss:

    soft_target: {_target_: scripts.variants.forms.ChannelWiseLoss, temperature: 4.0}

The others are terms: ``loss::terms::best: {_target_: scripts.variants.forms.BestTeacherResponse, ...}``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from scripts.labels import CLASSES, REGIONS
from scripts.method.distillation import DistillationOutput
from scripts.method.losses import (
    EPSILON,
    SoftTargetLoss,
    checked_pair,
    checked_temperature,
    merged,
    resample,
    resize_label,
)
from scripts.method.terms import Term


class StandardisedLoss(nn.Module):
    """kd(z(student), z(teacher); T) with z(x) = (x - mean(x)) / std(x) over the classes of each voxel.

    So the student need not match the size of the teacher's logits, only their order and relative distances.
    Sun et al. 2024, https://arxiv.org/abs/2403.01427.

    Shapes: student_logits, teacher_logits (B, C, H, W, D) -> scalar. The teacher is detached.

    Raises:
        ValueError: if temperature <= 0, or the shapes differ.
    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.soft_target = SoftTargetLoss(temperature)

    def forward(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        return self.soft_target(standardised(student_logits), standardised(teacher_logits))


def standardised(logits: torch.Tensor) -> torch.Tensor:
    """Logits with mean 0 and deviation 1 over the classes of each voxel."""
    logits = logits.float()
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + 1e-5)


class ChannelWiseLoss(nn.Module):
    """CWD: T² · KL(softmax(teacher_c/T) ‖ softmax(student_c/T)), softmax over the voxels, mean over the classes c.

    It compares where each class is most likely, not which class is most likely at a voxel.
    Shu et al. 2021, https://arxiv.org/abs/2011.13256.

    Shapes: student_logits, teacher_logits (B, C, H, W, D) -> scalar. The teacher is detached.

    Raises:
        ValueError: if temperature <= 0, or the shapes differ.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = checked_temperature(temperature)

    def forward(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        pair = checked_pair(student_logits, teacher_logits)
        student, teacher = ((x / self.temperature).flatten(2).log_softmax(dim=2) for x in pair)  # (B, C, H·W·D)
        divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
        return self.temperature**2 * divergence / (student.shape[0] * student.shape[1])


class CorrelationLoss(nn.Module):
    """DIST: between · (1 - r over the classes of each voxel) + within · (1 - r over the voxels of each class), · T².

    r is Pearson's correlation of the student's and the teacher's probabilities, softmax(logits/T).
    Huang et al. 2022, https://arxiv.org/abs/2205.10536; there the second mean is over a batch, here over a volume.

    Shapes: student_logits, teacher_logits (B, C, H, W, D) -> scalar. The teacher is detached.

    Raises:
        ValueError: if temperature <= 0, or the shapes differ.
    """

    def __init__(self, temperature: float = 1.0, between: float = 1.0, within: float = 1.0) -> None:
        super().__init__()
        self.temperature = checked_temperature(temperature)
        self.between = between
        self.within = within

    def forward(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        pair = checked_pair(student_logits, teacher_logits)
        student, teacher = ((x / self.temperature).softmax(dim=1).flatten(2) for x in pair)  # (B, C, H·W·D)
        between, within = (1 - pearson(student, teacher, dim).mean() for dim in (1, 2))
        return self.temperature**2 * (self.between * between + self.within * within)


def pearson(a: torch.Tensor, b: torch.Tensor, dim: int) -> torch.Tensor:
    """Pearson's correlation along an axis."""
    return F.cosine_similarity(a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True), dim=dim)


class RegionLoss(nn.Module):
    """Mean over WT, TC and ET of kd between two classes: the region's, log-sum-exp of their logits, and the rest's.

    Scores are of regions, and so is this loss; it is from no paper.

    Shapes: student_logits, teacher_logits (B, 4, H, W, D) -> scalar. The teacher is detached.

    Raises:
        ValueError: if temperature <= 0, or the shapes differ.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.soft_target = SoftTargetLoss(temperature)

    def forward(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        pair = checked_pair(student_logits, teacher_logits)
        losses = [self.soft_target(*(merged(logits, classes) for logits in pair)) for _, classes in REGIONS]
        return torch.stack(losses).mean()


class BestTeacherResponse(Term):
    """kd(student, best teacher) of each patch: the teacher whose whole tumour has the least cross-entropy there.

    After Zhang et al. 2022 (CA-MKD), https://arxiv.org/abs/2201.00007, who weight teachers by their cross-entropy; here
    the best one alone counts.

    Args:
        soft_target: compares logits, such as SoftTargetLoss.

    Shapes: DistillationOutput, label (B, 1, H, W, D) -> scalar.
    """

    def __init__(self, soft_target: nn.Module, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.soft_target = soft_target

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        if not output.teachers:
            return {}
        logits = torch.stack(list(output.teachers.values())).detach().float()  # (M, B, C, H, W, D)
        truth = (label[:, 0] > 0).long()  # (B, H, W, D)
        tumour = tuple(range(1, logits.shape[2]))
        errors = [F.cross_entropy(merged(x, tumour), truth, reduction="none").mean((1, 2, 3)) for x in logits]
        best = torch.stack(errors).argmin(dim=0)  # (B,), numbers of teachers
        return self.soft_target(output.student[0], logits[best, torch.arange(len(best), device=best.device)])


class FeatureLoss(Term):
    """1 - cosine of the student's projected features and a teacher's, over the channels of each voxel, then the mean.

    Features were first compared by Romero et al. 2015 (FitNets), https://arxiv.org/abs/1412.6550, by their squared
    distance. It needs the teacher's ``feature_layers``, ``distillation::student_feature_layers: [decoder2]`` and
    ``distillation::projection: {_target_: torch.nn.Conv3d, in_channels: 16, out_channels: 32, kernel_size: 1}`` with
    the numbers of channels of student and teacher.

    Args:
        teacher: its name.

    Shapes: DistillationOutput, label -> scalar; features (B, F, h, w, d). Other sizes of the student are resampled.

    Raises:
        ValueError: in forward, if there are no projected features, or the teacher gives none, or another number.
    """

    patients = "all"

    def __init__(self, teacher: str, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.teacher = teacher

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        if self.teacher not in output.teachers:
            return {}
        teacher = features_of(output, self.teacher).detach().float()
        student = resample(features_of(output, "projected").float(), teacher)
        if student.shape != teacher.shape:
            shapes = f"{tuple(student.shape)}, and the teacher's {tuple(teacher.shape)}"
            raise ValueError(f"projected features have the shape {shapes}: change the projection's out_channels.")
        return (1 - F.cosine_similarity(student, teacher, dim=1)).mean()


class PrototypeLoss(Term):
    """IFVD: mean squared difference of two maps, the student's and a teacher's, of how typical each voxel is.

    The map is the cosine of a voxel's features and the mean features of its true class, in that volume. Wang et al.,
    2020, https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/230_ECCV_2020_paper.php. It needs
    ``distillation::student_feature_layers: [decoder2]`` and the teacher's ``feature_layers``; channels may differ.

    Args:
        teacher: its name.

    Shapes: DistillationOutput, label (B, 1, H, W, D) -> scalar; features (B, F, h, w, d).

    Raises:
        ValueError: in forward, if student or teacher gives no features.
    """

    def __init__(self, teacher: str, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.teacher = teacher

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        if self.teacher not in output.teachers:
            return {}
        teacher = features_of(output, self.teacher).detach()
        student = resample(features_of(output, "student"), teacher)
        small = resize_label(label, teacher)
        return F.mse_loss(typicality(student, small), typicality(teacher, small))


def typicality(features: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cosine of each voxel's features and its class's mean: (B, F, h, w, d), (B, 1, h, w, d) -> (B, h·w·d)."""
    voxels = features.float().flatten(2)  # (B, F, N)
    truth = F.one_hot(label.flatten(1).long(), len(CLASSES)).float()  # (B, N, C)
    means = voxels @ truth / (truth.sum(dim=1, keepdim=True) + EPSILON)  # (B, F, C)
    return F.cosine_similarity(voxels, means @ truth.transpose(1, 2), dim=1)


def features_of(output: DistillationOutput, name: str) -> torch.Tensor:
    """One entry of ``output.features``, or a ValueError that says which key gives it."""
    found = output.features.get(name, [])
    if not found:
        keys = {"student": "distillation::student_feature_layers", "projected": "distillation::projection"}
        key = keys.get(name, f"teachers::{name}::feature_layers")
        raise ValueError(f"the loss needs features of {name!r}, but there are none: set {key}.")
    return found[0]
