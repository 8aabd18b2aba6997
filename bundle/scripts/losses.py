"""The losses of MTCM-KD: segmentation, soft targets, and their weighted sum by named terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from scripts.confidence import TeacherConfidence
from scripts.distillation import DistillationOutput

__all__ = ["SegmentationLoss", "SoftTargetLoss", "DistillationLoss"]

EPSILON = 1e-7  # in denominators only, as in the authors' losses


class SegmentationLoss(nn.Module):
    """(soft Dice loss + soft Jaccard loss + cross-entropy) / 3 over all classes, background included.

    One log-softmax and one one-hot serve the three. Dice and Jaccard are reduced over each whole volume; the
    MTCM-KD authors reduce over each slice of the last axis (``reduction="slice"``), with which a perfect
    prediction still scores about 0.3, since every slice without a class counts as a full miss.

    Shapes: logits (B, C, H, W, D), label (B, 1, H, W, D) with classes 0..C-1 -> scalar.

    Raises:
        ValueError: if reduction is neither "volume" nor "slice", or the shapes do not match.
    """

    def __init__(self, reduction: str = "volume") -> None:
        super().__init__()
        if reduction not in ("volume", "slice"):
            raise ValueError(f'reduction must be "volume" or "slice", got {reduction!r}.')
        self.axes = (2, 3, 4) if reduction == "volume" else (2, 3)

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        expected = (logits.shape[0], 1, *logits.shape[2:])
        if tuple(label.shape) != expected:
            raise ValueError(f"expected a label of shape {expected}, got {tuple(label.shape)}.")
        classes = label[:, 0].long()  # (B, H, W, D)
        log_probabilities = F.log_softmax(logits.float(), dim=1)
        cross_entropy = F.nll_loss(log_probabilities, classes)
        probabilities = log_probabilities.exp()
        truth = F.one_hot(classes, logits.shape[1]).movedim(-1, 1).to(probabilities.dtype)
        intersection = (probabilities * truth).sum(self.axes)  # (B, C), or (B, C, D) by slice
        total = probabilities.sum(self.axes) + truth.sum(self.axes)
        dice = 1 - (2 * intersection / (total + EPSILON)).mean()
        jaccard = 1 - (intersection / (total - intersection + EPSILON)).mean()
        return (dice + jaccard + cross_entropy) / 3


class SoftTargetLoss(nn.Module):
    """Response-based distillation: T² · KL(softmax(teacher/T) ‖ softmax(student/T)), mean over voxels.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531. The MTCM-KD authors sum over voxels and scale by T;
    ``reduction="sum"`` with ``scale="linear"`` gives theirs, whose size grows with the patch.

    Most voxels are background, and a student that cannot see oedema settles for background there. ``tumour_focus`` f
    (not in the paper) takes the mean with weights (1 - f) + f · p, p the teacher's probability of any tumour class:
    0 is the plain mean, 1 counts voxels only as far as the teacher sees tumour.

    FLAIR and T2 show a tumour's extent, not its parts. ``whole_tumour`` (not in the paper) takes from the teacher only
    what is tumour of any class: logits become those of background and of the others' log-sum-exp.

    Shapes: student_logits, teacher_logits (B, C, H, W, D) -> scalar. The teacher is detached.

    Raises:
        ValueError: if temperature <= 0, reduction or scale is unknown, tumour_focus is not in 0..1 or is given for a
            sum, or the shapes differ.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        reduction: str = "mean",
        scale: str = "squared",
        tumour_focus: float = 0.0,
        whole_tumour: bool = False,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        if reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum" (over voxels), got {reduction!r}.')
        if scale not in ("squared", "linear"):
            raise ValueError(f'scale must be "squared" (T²) or "linear" (T), got {scale!r}.')
        if not 0 <= tumour_focus <= 1 or (tumour_focus and reduction == "sum"):
            raise ValueError(f'tumour_focus must be in 0..1, and 0 for reduction="sum", got {tumour_focus}.')
        self.tumour_focus = tumour_focus
        self.whole_tumour = whole_tumour
        self.temperature = temperature
        self.reduction = reduction
        self.factor = temperature**2 if scale == "squared" else temperature

    def forward(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        if student_logits.shape != teacher_logits.shape:
            raise ValueError(f"student {tuple(student_logits.shape)} and teacher {tuple(teacher_logits.shape)} differ.")
        student_logits = student_logits.float()
        teacher_logits = teacher_logits.detach().float()  # soft targets: the student must not train a teacher
        if self.whole_tumour:
            student_logits, teacher_logits = merge_tumour(student_logits), merge_tumour(teacher_logits)
        soft_targets = F.log_softmax(teacher_logits / self.temperature, dim=1)
        student = F.log_softmax(student_logits / self.temperature, dim=1)
        if self.tumour_focus:
            tumour = 1 - F.softmax(teacher_logits, dim=1)[:, 0]  # (B, H, W, D)
            weights = (1 - self.tumour_focus) + self.tumour_focus * tumour
            divergence = F.kl_div(student, soft_targets, reduction="none", log_target=True).sum(dim=1)
            return self.factor * (weights * divergence).sum() / (weights.sum() + EPSILON)
        divergence = F.kl_div(student, soft_targets, reduction="sum", log_target=True)
        if self.reduction == "sum":
            return self.factor * divergence / student.shape[0]
        return self.factor * divergence / student[:, 0].numel()


def merge_tumour(logits: torch.Tensor) -> torch.Tensor:
    """Logits of background and of any tumour class: (B, C, H, W, D) -> (B, 2, H, W, D)."""
    return torch.stack([logits[:, 0], logits[:, 1:].logsumexp(dim=1)], dim=1)


class DistillationLoss(nn.Module):
    """Teachers' and student's losses as one sum of named, weighted terms (MTCM-KD).

    teachers: Σ seg(teacher_i, y) + Σ_l fusion_weights[l] · seg(fused_l, y_l)
    student:  student_weight · seg(student, y) + Σ w_i · kd(student, teacher_i)
              + Σ_l deep_weights[l] · (a_l · seg(student_l, y_l) + (1 - a_l) · kd(student_l, fused_l))

    with a = ``deep_label_shares``, w from the teachers' confidence, and y_l = the label by nearest neighbour. Soft
    targets are detached, so one backward pass over the sum equals the authors' two. Until ``distilling`` is set
    (after the warm-up) the student's part is seg(student, y) alone. Frozen teachers have no loss of their own. A
    student without a head at the fusion's resolution meets the fused target with its own logits, resampled.

    ``terms`` holds what was summed last, by name, detached: what is logged is what is optimised.

    Shapes: DistillationOutput, label (B, 1, H, W, D) with classes 0..C-1 -> scalar.

    Raises:
        ValueError: if a weight is negative, a share is not in 0..1, or the network gives more levels than there are
            weights.
    """

    def __init__(
        self,
        segmentation: nn.Module,
        soft_target: nn.Module,
        confidence: TeacherConfidence | None = None,
        student_weight: float = 0.75,
        fusion_weights: Sequence[float] = (0.08, 0.05),
        deep_weights: Sequence[float] = (0.10, 0.03),
        deep_label_shares: Sequence[float] = (0.7, 0.6),
        distilling: bool = False,
    ) -> None:
        super().__init__()
        self.segmentation = segmentation
        self.soft_target = soft_target
        self.confidence = confidence
        self.student_weight = student_weight
        self.fusion_weights = list(fusion_weights)
        self.deep_weights = list(deep_weights)
        self.deep_label_shares = list(deep_label_shares)
        if min(student_weight, *fusion_weights, *deep_weights) < 0:
            values = f"{student_weight}, {list(fusion_weights)}, {list(deep_weights)}"
            raise ValueError(f"student_weight, fusion_weights and deep_weights must be at least 0, got {values}.")
        if not all(0 <= share <= 1 for share in deep_label_shares):
            raise ValueError(f"deep_label_shares must be in 0..1, got {list(deep_label_shares)}.")
        self.distilling = distilling
        self.terms: dict[str, torch.Tensor] = {}

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> torch.Tensor:
        terms = self.teacher_terms(output, label) | self.student_terms(output, label)
        self.terms = {name: term.detach() for name, term in terms.items()}
        return torch.stack(list(terms.values())).sum()

    def teacher_terms(self, output: DistillationOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """L_teachers by name."""
        learning = {name: logits for name, logits in output.teachers.items() if logits.requires_grad}
        terms = {f"teacher_{name}": self.segmentation(logits, label) for name, logits in learning.items()}
        self.check_levels(len(output.fused), self.fusion_weights, "fusion_weights")
        for level, (weight, fused) in enumerate(zip(self.fusion_weights, output.fused), start=1):
            terms[f"fusion_{level}"] = weight * self.segmentation(fused, resize_label(label, fused))
        return terms

    def student_terms(self, output: DistillationOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """L_student by name. In the warm-up every other term has weight 0, so that no parameter lacks a gradient."""
        distilling = float(self.distilling)
        student = output.student[0]
        supervised = self.student_weight if self.distilling else 1.0
        terms = {"student": supervised * self.segmentation(student, label)}
        weights = self.confidence.as_dict() if self.confidence is not None else {}
        for name, logits in output.teachers.items():
            terms[f"distil_{name}"] = distilling * weights[name] * self.soft_target(student, logits)
        return terms | {
            name: distilling * term for name, term in self.deep_terms(output.student, output.fused, label).items()
        }

    def deep_terms(
        self, student: Sequence[torch.Tensor], fused: Sequence[torch.Tensor], label: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Deep supervision of the student by labels and, where there is a fusion, by its logits (CDSFL)."""
        levels = max(len(student) - 1, len(fused))
        self.check_levels(levels, self.deep_weights, "deep_weights")
        terms = {}
        for index in range(levels):
            weight, share = self.deep_weights[index], self.deep_label_shares[index]
            deep = student[index + 1] if index + 1 < len(student) else None
            if deep is not None:
                seg = self.segmentation(deep, resize_label(label, deep))
                terms[f"student_deep_{index + 1}"] = weight * share * seg
            if index < len(fused):
                logits = resample(student[0] if deep is None else deep, fused[index])
                terms[f"distil_fusion_{index + 1}"] = weight * (1 - share) * self.soft_target(logits, fused[index])
        return terms

    @staticmethod
    def check_levels(levels: int, weights: Sequence[float], key: str) -> None:
        if levels > len(weights):
            raise ValueError(
                f"the networks give {levels} lower-resolution outputs, but {key} has {len(weights)} weights."
            )


def resize_label(label: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Nearest neighbour (index 2k at half size): (B, 1, H, W, D) -> (B, 1, h, w, d)."""
    if label.shape[2:] == like.shape[2:]:
        return label
    return F.interpolate(label.float(), size=like.shape[2:], mode="nearest")


def resample(logits: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Trilinear where sizes differ: (B, C, H, W, D) -> (B, C, h, w, d)."""
    if logits.shape[2:] == like.shape[2:]:
        return logits
    return F.interpolate(logits, size=like.shape[2:], mode="trilinear")
