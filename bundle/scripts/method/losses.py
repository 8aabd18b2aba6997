"""The two losses of MTCM-KD: segmentation by labels, and soft targets by a teacher."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import nn

EPSILON = 1e-7  # in denominators only, as in the authors' losses


class SegmentationLoss(nn.Module):
    """(soft Dice loss + soft Jaccard loss + cross-entropy) / 3 over all classes, background included.

    One log-softmax and one one-hot serve the three. Dice and Jaccard are ratios over each whole volume. The MTCM-KD
    authors' are over each slice of the last axis, summed over the batch (``reduction="slice"``).

    A class that the label lacks has no overlap, so its plain ratios are a full miss whatever is predicted: a constant
    cost without a gradient. Here such a class costs s / (s + k) in Dice and in Jaccard, where s is its predicted soft
    volume and k is ``smooth_absent`` of all voxels. (That is the usual smoothing of Dice, but for absent classes only.)
    It falls to 0 with s, and its gradient is at most 1/k for a voxel, where s is 0. k acts as the volume of the class:
    a class of V voxels costs 1/(2V) for a first false voxel in Dice, so with k near V an absent class weighs about as
    much as a present one. Parts of tumours fill about 1% of a patch. A share, not a number of voxels, gives the same
    false find the same cost at each resolution.

    Args:
        reduction: "volume" or "slice".
        smooth_absent: k as a share of the voxels of a volume (or of a slice). 0 is a full miss, as the authors
            do. By slice, a perfect prediction then still costs about 0.3.

    Shapes: logits (B, C, H, W, D), label (B, 1, H, W, D) with classes 0..C-1 -> scalar.

    Raises:
        ValueError: if reduction is unknown, smooth_absent is negative, or the shapes do not match.
    """

    def __init__(self, reduction: str = "volume", smooth_absent: float = 0.01) -> None:
        super().__init__()
        if reduction not in ("volume", "slice"):
            raise ValueError(f'reduction must be "volume" or "slice", got {reduction!r}.')
        if smooth_absent < 0:
            raise ValueError(f"smooth_absent must be at least 0, got {smooth_absent}.")
        self.axes = (2, 3, 4) if reduction == "volume" else (0, 2, 3)
        self.smooth_absent = smooth_absent

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        expected = (logits.shape[0], 1, *logits.shape[2:])
        if tuple(label.shape) != expected:
            raise ValueError(f"expected a label of shape {expected}, got {tuple(label.shape)}.")
        classes = label[:, 0].long()  # (B, H, W, D)
        log_probabilities = F.log_softmax(logits.float(), dim=1)
        cross_entropy = F.nll_loss(log_probabilities, classes)
        probabilities = log_probabilities.exp()
        numbers = torch.arange(logits.shape[1], device=label.device).view(-1, 1, 1, 1)
        truth = (classes[:, None] == numbers).to(probabilities.dtype)  # one-hot; F.one_hot goes by way of int64
        intersection = (probabilities * truth).sum(self.axes)  # (B, C), or (C, D) by slice
        volume = truth.sum(self.axes)
        total = probabilities.sum(self.axes) + volume
        smooth = self.smooth_absent * (truth.numel() / volume.numel()) * (volume == 0)  # k
        dice = 1 - ((2 * intersection + smooth) / (total + smooth + EPSILON)).mean()
        jaccard = 1 - ((intersection + smooth) / (total - intersection + smooth + EPSILON)).mean()
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
        if reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum" (over voxels), got {reduction!r}.')
        if scale not in ("squared", "linear"):
            raise ValueError(f'scale must be "squared" (T²) or "linear" (T), got {scale!r}.')
        if not 0 <= tumour_focus <= 1 or (tumour_focus and reduction == "sum"):
            raise ValueError(f'tumour_focus must be in 0..1, and 0 for reduction="sum", got {tumour_focus}.')
        self.tumour_focus = tumour_focus
        self.whole_tumour = whole_tumour
        self.temperature = checked_temperature(temperature)
        self.reduction = reduction
        self.factor = temperature**2 if scale == "squared" else temperature

    def forward(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        student_logits, teacher_logits = checked_pair(student_logits, teacher_logits)
        if self.whole_tumour:
            classes = range(1, student_logits.shape[1])
            student_logits, teacher_logits = merged(student_logits, classes), merged(teacher_logits, classes)
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


def merged(logits: torch.Tensor, classes: Collection[int]) -> torch.Tensor:
    """Logits of the other classes and of these: (B, C, H, W, D) -> (B, 2, H, W, D)."""
    rest = [index for index in range(logits.shape[1]) if index not in classes]
    return torch.stack([logits[:, part].logsumexp(dim=1) for part in (rest, list(classes))], dim=1)


def checked_temperature(temperature: float) -> float:
    """The temperature. Raises ValueError unless it is positive."""
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    return temperature


def checked_pair(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in float32, the teacher detached. Raises ValueError if their shapes differ."""
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student {tuple(student_logits.shape)} and teacher {tuple(teacher_logits.shape)} differ.")
    return student_logits.float(), teacher_logits.detach().float()  # the student must not train a teacher


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
