"""The loss of MTCM-KD: a sum of named terms, each with a weight of its own.

A term is added, removed or replaced in YAML, under ``loss::terms``. It gets

| argument | what it is | shape |
|---|---|---|
| ``output.student`` | the student's logits at full, 1/2, 1/4 resolution: as many as it has heads | [(B, C, h, w, d)] |
| ``output.teachers`` | each teacher's logits, by name | {name: (B, C, H, W, D)} |
| ``output.fused`` | the fusion's logits at 1/2, 1/4 resolution: as many as it has levels | [(B, C, h, w, d)] |
| ``output.features`` | outputs of the teachers' feature layers, by name | {name: [(B, F, h, w, d)]} |
| ... ``["student"]`` | the student's, where ``distillation::student_feature_layers`` names some | [(B, F, h, w, d)] |
| ... ``["projected"]`` | the first of these through ``distillation::projection``, if there is one | [(B, F, h, w, d)] |
| ``label`` | classes 0..C-1 | (B, 1, H, W, D) |

and gives a scalar, or several by name (one a teacher, say). A term that finds nothing to compare gives none: ``{}``.

Where patients lack sequences or labels, a term is computed for each group of samples that have the same, and its value
is the mean over all samples that gave one. So its size does not depend on how many lack something.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from scripts.errors import UserError
from scripts.method.confidence import TeacherConfidence
from scripts.method.distillation import DistillationOutput
from scripts.method.losses import resample, resize_label
from scripts.method.term_values import check_levels, values_of

PATIENTS = ("labelled", "unlabelled", "all")  # for whom a term may count


class Term(nn.Module):
    """One term of the loss; subclasses define ``forward(output, label)``.

    ``patients`` says for whom a term counts: "labelled" patients, "unlabelled" ones, whose ``label`` means nothing, or
    "all".

    Args:
        weight: what the term is multiplied by.
        warm_up_weight: the same in the first epochs, in which the student learns from labels alone.

    Raises:
        ValueError: if a weight is negative, or ``patients`` is none of the three.
    """

    patients = "labelled"
    level_of: tuple[str, ...] = ("student", "fusion")  # whose output ``level`` is, in terms that have one

    def __init__(self, weight: float = 1.0, warm_up_weight: float = 0.0) -> None:
        super().__init__()
        if min(weight, warm_up_weight) < 0:
            raise ValueError(f"weights must be at least 0, got {weight} and {warm_up_weight} in the warm-up.")
        if self.patients not in PATIENTS:
            raise ValueError(f"{type(self).__name__}.patients is {self.patients!r}, expected one of {PATIENTS}.")
        self.weight = weight
        self.warm_up_weight = warm_up_weight


class TeacherLabels(Term):
    """seg(teacher_i, y) of each teacher that learns; a frozen one has no such term."""

    def __init__(self, segmentation: nn.Module, weight: float = 1.0) -> None:
        super().__init__(weight, weight)
        self.segmentation = segmentation

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
        learning = {name: logits for name, logits in output.teachers.items() if logits.requires_grad}
        return {name: self.segmentation(logits, label) for name, logits in learning.items()}


class FusionLabels(Term):
    """seg(fused, y_l) at one level of the fusion: 1 is 1/2 resolution, 2 is 1/4. It trains the teachers as well."""

    level_of = ("fusion",)

    def __init__(self, segmentation: nn.Module, weight: float, level: int = 1) -> None:
        super().__init__(weight, weight)
        self.segmentation = segmentation
        self.level = level

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        if len(output.fused) < self.level:
            return {}
        fused = output.fused[self.level - 1]
        return self.segmentation(fused, resize_label(label, fused))


class StudentLabels(Term):
    """seg(student_l, y_l) of one of the student's heads: level 0 is full resolution, 1 is 1/2, 2 is 1/4."""

    level_of = ("student",)

    def __init__(self, segmentation: nn.Module, weight: float, level: int = 0, warm_up_weight: float = 0.0) -> None:
        super().__init__(weight, warm_up_weight)
        self.segmentation = segmentation
        self.level = level

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        if len(output.student) <= self.level:
            return {}
        logits = output.student[self.level]
        return self.segmentation(logits, resize_label(label, logits))


class TeacherResponses(Term):
    """Performance-aware response distillation: w_i · kd(student, teacher_i) of each teacher, w_i its confidence."""

    patients = "all"

    def __init__(self, soft_target: nn.Module, confidence: TeacherConfidence, weight: float = 1.0) -> None:
        super().__init__(weight)
        if confidence is None:
            raise UserError(
                "TeacherResponses has no confidence: set loss::terms::distil: null, or use OneTeacherResponse instead."
            )
        self.soft_target = soft_target
        self.confidence = confidence

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
        weights, student = self.confidence.as_dict(), output.student[0]
        return {
            name: weights[name] * self.soft_target(student, logits.detach()) for name, logits in output.teachers.items()
        }


class FusedResponse(Term):
    """kd(student_l, fused) at one level of the fusion (CDSFL): 1 is 1/2 resolution, 2 is 1/4.

    A student without a head at that resolution is compared by its own logits, resampled.
    """

    patients = "all"

    def __init__(self, soft_target: nn.Module, weight: float, level: int = 1) -> None:
        super().__init__(weight)
        self.soft_target = soft_target
        self.level = level

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        if len(output.fused) < self.level:
            return {}
        fused = output.fused[self.level - 1]
        student = output.student[self.level] if len(output.student) > self.level else output.student[0]
        return self.soft_target(resample(student, fused), fused.detach())


class DistillationLoss(nn.Module):
    """Σ weight · term, over the teachers' terms and the student's (MTCM-KD, doi 10.1016/j.knosys.2024.111854).

    Soft targets are detached, so that one backward pass over the sum gives the gradients of the authors' two passes.
    Until ``distilling`` is set, every term has its ``warm_up_weight``, which is 0 for what teachers teach: the gradient
    is then 0 and not missing, as DistributedDataParallel needs it.

    ``values`` holds what was summed last, by name, detached: what is logged is what is optimised. ``found`` holds the
    terms that ever gave a value.

    Args:
        terms: name -> Term, or None for a term that an overlay takes away. A term that gives several values adds their
            names to its own: ``distil_flair``.
        distilling: whether the warm-up is over.
        gather: gives what all processes have, as a list, for means over all of them where patients lack something.
            None for one process.

    Shapes: DistillationOutput, label (B, 1, H, W, D) with classes 0..C-1 -> scalar.

    Raises:
        UserError: for a term that is no Term; in forward, for one that raises, or gives something else than scalars.
        ValueError: in forward, if the networks have an output at a lower resolution that no term uses.
    """

    def __init__(
        self,
        terms: Mapping[str, Term | None],
        distilling: bool = False,
        gather: Callable[[Any], list[Any]] | None = None,
    ) -> None:
        super().__init__()
        for name, term in terms.items():
            if term is not None and not isinstance(term, Term):
                raise UserError(
                    f"loss::terms::{name} is a {type(term).__module__}.{type(term).__qualname__}, expected a class of "
                    f"{Term.__module__}.Term (docs/extend.md says how to write one), or null."
                )
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None})
        self.distilling = distilling
        self.gather = gather or (lambda mine: [mine])
        self.values: dict[str, torch.Tensor] = {}
        self.found: set[str] = set()

    def forward(self, output: DistillationOutput, label: torch.Tensor) -> torch.Tensor:
        values = self.of_batch(output, label)
        self.values = {name: value.detach() for name, value in values.items()}
        if not values:  # nobody in this batch has a label or a teacher
            return 0 * output.student[0].sum()
        return torch.stack(list(values.values())).sum()

    def of_batch(self, output: DistillationOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weight · value of every term by name, also where patients of the batch lack something."""
        return self.mean_of_parts(output, label) if output.parts else self.weighted(output, label)

    def weighted(
        self, output: DistillationOutput, label: torch.Tensor, labelled: bool = True
    ) -> dict[str, torch.Tensor]:
        """Weight · value of every term by name: what is summed."""
        check_levels(self.terms.values(), output)
        values: dict[str, torch.Tensor] = {}
        for name, term in self.terms.items():
            weight: Any = term.weight if self.distilling else term.warm_up_weight
            counts = term.patients in ("all", "labelled" if labelled else "unlabelled")
            parts = values_of(name, term, output, label, values) if counts else {}
            values |= {key: weight * part for key, part in parts.items()}
            self.found |= {name} if parts else set()
        return values

    def mean_of_parts(self, output: DistillationOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of each term the mean over all samples, of all processes, that give it; a process that has none gives 0.

        A process's value is its share of that mean, times the number of processes, since their gradients are averaged.
        """
        sums: dict[str, torch.Tensor] = {}
        counts: dict[str, int] = defaultdict(int)
        for part in output.parts:
            for name, value in self.weighted(part.output, label[part.samples], part.labelled).items():
                sums[name] = sums.get(name, 0) + len(part.samples) * value
                counts[name] += len(part.samples)
        everywhere = self.gather(dict(counts))
        totals = sum((Counter(one) for one in everywhere), Counter())
        zero = 0 * output.student[0].sum()
        return {name: sums.get(name, zero) * len(everywhere) / total for name, total in sorted(totals.items())}
