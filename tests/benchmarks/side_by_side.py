"""Students side by side: one alone and one for each form of distillation, from one start, on the same patches.

Laid over train.yaml by side_by_side.yaml, which gives the command; then, from bundle/,

python ../tests/benchmarks/side_by_side.py --run OUT --output_dir FORMS --fold 0

takes the students apart: FORMS/NAME/fold_0/models/model.pt, for evaluate.yaml.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import torch
from torch import nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bundle"))

from forms import FORMS, Batch

from scripts.command import run_command
from scripts.distillation import DistillationNetwork, DistillationOutput, Teacher, logits_list
from scripts.errors import UserError
from scripts.labels import REGIONS
from scripts.losses import DistillationLoss
from scripts.precision import autocast, lay_channels_last

__all__ = ["SideBySide", "SideBySideLoss", "split"]

logger = logging.getLogger(__name__)

LAYER = "decoder2"  # whose features are compared, at 1/2 resolution
DECAY = 0.99  # of moving means of weights, a step
MEASURED = 8  # batches whose gradients set a term's weight
SEVERAL = ("three", "validation", "case", "region")  # forms of more teachers than one
MEAN_WEIGHT = 0.28  # of mean_student, which begins as its student's equal, with no gradient to measure


class Output(NamedTuple):
    """What one forward yields; logits are (B, C, H, W, D), features (B, F, H/2, W/2, D/2)."""

    student: list[torch.Tensor]  # alone
    teachers: dict[str, torch.Tensor]
    fused: list[torch.Tensor]  # none
    students: dict[str, list[torch.Tensor]]  # by form
    features: dict[str, torch.Tensor]  # of the students by form, of the teacher "all", and "projected" ones


class SideBySide(DistillationNetwork):
    """The student alone, a copy of it for each form, kept teachers (``all`` sees four sequences), and moving means.

    ``mean_teacher`` is the moving mean of ``learner``, a copy of ``all`` that goes on learning. ``channels`` are those
    of the student's and of that teacher's features.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Mapping[str, Teacher],
        forms: Sequence[str],
        channels: Sequence[int],
        **options: Any,
    ) -> None:
        super().__init__(student, teachers, **options)
        if unknown := [name for name in forms if name not in FORMS]:
            raise UserError(f"forms are {list(forms)}: {unknown[0]} is not among {list(FORMS)}.")
        several = [name for name in forms if name in SEVERAL]
        if several and len(teachers) < 2:
            raise UserError(f"the form {several[0]} wants more teachers than {list(teachers)}: give their checkpoints.")
        self.students = nn.ModuleDict({name: copy.deepcopy(student) for name in forms})
        self.learner = without_hooks(teachers["all"].network).requires_grad_("mean_teacher" in forms)
        self.means = nn.ModuleDict({name: copy.deepcopy(network) for name, network in self.followed().items()})
        self.means.requires_grad_(False)
        self.projection = nn.Conv3d(*channels, kernel_size=1)
        self.layers: dict[str, torch.Tensor] = {}
        for name, network in self.students.items():
            network.get_submodule(LAYER).register_forward_hook(
                lambda _, __, output, name=name: self.layers.update({name: output})
            )
        if options.get("channels_last"):
            lay_channels_last(self)

    def followed(self) -> dict[str, nn.Module]:
        """The networks that have a moving mean."""
        networks = {"alone": self.student}
        if "mean_student" in self.students:
            networks["mean_student"] = self.students["mean_student"]
        if "mean_teacher" in self.students:
            networks["mean_teacher"] = self.learner
        return networks

    @torch.no_grad()
    def follow(self) -> None:
        for name, network in self.followed().items():
            for mean, value in zip(self.means[name].parameters(), network.parameters()):
                mean.lerp_(value, 1 - DECAY)

    def forward(self, image: torch.Tensor, **sequences: torch.Tensor) -> Output:
        images = dict(zip(self.student_sequences, image.split(1, dim=1))) | sequences
        four = torch.cat([images[name] for name in self.teachers["all"].sequences], dim=1)
        if self.training:
            self.follow()
        with autocast(image.device, self.amp):
            outputs = {name: teacher(images) for name, teacher in self.teachers.items()}
            teachers = {name: output[0] for name, output in outputs.items()}
            if "mean_student" in self.students:
                teachers["mean_student"] = logits_list(self.means["mean_student"](image))[0]
            if "mean_teacher" in self.students:
                teachers["mean_teacher"] = logits_list(self.means["mean_teacher"](four))[0]
                teachers["learner"] = logits_list(self.learner(four))[0]
            students = {name: logits_list(network(image)) for name, network in self.students.items()}
            features = {**self.layers, "all": outputs["all"][1][0]}
            if "features" in features:
                features["projected"] = self.projection(features["features"])
            return Output(logits_list(self.student(image)), teachers, [], students, features)


def without_hooks(network: nn.Module) -> nn.Module:
    """A copy that tells nobody of its features."""
    network = copy.deepcopy(network)
    for module in network.modules():
        module._forward_hooks.clear()
    return network


class SideBySideLoss(DistillationLoss):
    """Σ over the students of their labels' terms, and of each but the one alone ``weight · form``, after the warm-up.

    A weight is such that the form's gradient at the student's logits (of features: at these) is ``share`` of the
    labels', by the median of the first batches after it. ``validated``: whole-tumour Dice of the kept teachers by name.
    """

    def __init__(
        self, share: float, validated: Mapping[str, float], resume: bool | str = False, **options: Any
    ) -> None:
        super().__init__(**options)
        if resume:
            raise UserError(f"resume is {resume!r}: the weights of the forms are in no checkpoint, so begin anew.")
        self.share, self.validated = share, dict(validated)
        self.ratios: dict[str, list[float]] = {}
        self.dice: dict[str, dict[str, list[float]]] = {name: {} for name, _ in REGIONS}

    def forward(self, output: Output, label: torch.Tensor) -> torch.Tensor:
        label = label.as_subclass(torch.Tensor)
        several = [name for name in output.students if name in SEVERAL]
        if several and len(self.validated) < 2:
            raise UserError(f"loss::validated is {self.validated}: {several[0]} wants the Dice of more teachers.")
        self.measure(output.teachers, label)
        dice = {name: {k: sum(v) / max(len(v), 1) for k, v in of.items()} for name, of in self.dice.items()}
        terms = {"student": self.labels(output.student, label)}
        if "learner" in output.teachers:
            terms["learner"] = self.segmentation(output.teachers["learner"], label)
        for name, logits in output.students.items():
            terms[name] = self.labels(logits, label)
            feature, temperature = output.features[name], self.soft_target.temperature
            batch = Batch(
                logits[0], output.teachers, feature, output.features, label, dice, self.validated, temperature
            )
            loss = FORMS[name](batch)
            weight = self.weight(name, terms[name], loss, batch) if self.distilling else 0.0
            terms[f"form_{name}"] = weight * loss
        self.terms = {name: term.detach() for name, term in terms.items()}
        return torch.stack(list(terms.values())).sum()

    def labels(self, logits: list[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        return torch.stack(list(self.student_terms(DistillationOutput(logits, {}, []), label).values())).sum()

    def weight(self, name: str, labels: torch.Tensor, loss: torch.Tensor, batch: Batch) -> float:
        if name == "mean_student":
            return MEAN_WEIGHT
        ratios = self.ratios.setdefault(name, [])
        if len(ratios) < MEASURED:
            at = batch.feature if name in ("features", "prototypes") else batch.student
            norms = [torch.autograd.grad(term, at, retain_graph=True)[0].norm() for term in (labels, loss)]
            ratios.append((norms[0] / (norms[1] + 1e-12)).item())
            if len(ratios) == MEASURED:
                logger.info(f"Weight of {name}: {self.share * median_low(ratios):.3f}.")
        return self.share * median_low(ratios)

    @torch.no_grad()
    def measure(self, teachers: Mapping[str, torch.Tensor], label: torch.Tensor) -> None:
        """Dice of the kept teachers, of each patch and region where there is something."""
        if unknown := sorted(set(self.validated) - set(teachers)):
            raise UserError(f"loss::validated has {unknown}, which are not among the teachers {sorted(teachers)}.")
        for teacher in self.validated:
            found = teachers[teacher].argmax(1, keepdim=True)
            for name, classes in REGIONS:
                values = torch.tensor(classes, device=label.device)
                predicted, truth = (torch.isin(x.long(), values).flatten(1) for x in (found, label))
                total = predicted.sum(1) + truth.sum(1)
                dice = 2 * (predicted & truth).sum(1) / total
                self.dice[name].setdefault(teacher, []).extend(dice[total > 0].tolist())


def split(run: str, output_dir: str, fold: int) -> None:
    """Write the last weights of each student, and of the moving mean of the one alone, to OUT/NAME/fold_K."""
    path = Path(run) / "models" / "checkpoint.pt"
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the output_dir of a training with side_by_side.yaml.")
    weights = torch.load(path, map_location="cpu", weights_only=True)["distillation"]
    names = {key.split(".")[1] for key in weights if key.startswith("students.")}
    for name, prefix in {"alone": "student.", "mean": "means.alone.", **{n: f"students.{n}." for n in names}}.items():
        models = Path(output_dir) / name / f"fold_{fold}" / "models"
        models.mkdir(parents=True, exist_ok=True)
        own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        torch.save(own, models / "model.pt")


if __name__ == "__main__":
    run_command(split)
