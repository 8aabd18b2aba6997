"""Terms of the loss for teachers that know already, such as the predictions of another program."""

from __future__ import annotations

import torch
from torch import nn

from scripts.method.distillation import DistillationOutput
from scripts.method.losses import resize_label
from scripts.method.terms import Term


class PseudoLabels(Term):
    """seg(student_l, argmax teacher) for patients without a label: what a teacher finds most likely serves as label.

    Lee 2013 (ICML workshop on challenges in representation learning), there with the student itself as teacher.

    Args:
        segmentation: the loss of labels, such as SegmentationLoss.
        teacher: its name.
        level: of the student's heads: 0 is full resolution, 1 is 1/2, 2 is 1/4.
        warm_up_weight: 0 for a teacher that learns with the student; ``weight`` for one that knows already.
    """

    patients, level_of = "unlabelled", ("student",)

    def __init__(
        self, segmentation: nn.Module, teacher: str, weight: float, level: int = 0, warm_up_weight: float = 0.0
    ) -> None:
        super().__init__(weight, warm_up_weight)
        self.segmentation = segmentation
        self.teacher = teacher
        self.level = level

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        if self.teacher not in output.teachers or len(output.student) <= self.level:
            return {}
        likely = output.teachers[self.teacher].detach().argmax(dim=1, keepdim=True)  # (B, 1, H, W, D)
        logits = output.student[self.level]
        return self.segmentation(logits, resize_label(likely, logits))


class OneTeacherResponse(Term):
    """kd(student, teacher) of one teacher, whose weight does not depend on its performance."""

    patients = "all"

    def __init__(self, soft_target: nn.Module, teacher: str, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.soft_target = soft_target
        self.teacher = teacher

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        if self.teacher not in output.teachers:
            return {}
        return self.soft_target(output.student[0], output.teachers[self.teacher].detach())
