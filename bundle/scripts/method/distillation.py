"""Student, teachers and fusion as one module, so that one trainer, one optimizer and one DDP wrapper serve them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from monai.utils import ensure_tuple
from torch import nn
from torch.utils.checkpoint import checkpoint

from scripts.device import autocast, lay_channels_last
from scripts.labels import TARGETS
from scripts.method.features import LayerOutputs, logits_list
from scripts.method.fusion import CooperativeFusion
from scripts.method.gaps import Samples, groups
from scripts.method.teachers import Teacher, sequences_of, usable_teachers

logger = logging.getLogger(__name__)


class DistillationOutput(NamedTuple):
    """What one training forward gives: logits (B, C, h, w, d) and features (B, F, h, w, d).

    Where patients lack sequences or labels, ``parts`` holds an output for each group of samples that have the same,
    with the teachers that see them. ``student`` is then of the whole batch, and the other fields are empty.
    """

    student: list[torch.Tensor]  # from full resolution down, as many as it has heads
    teachers: dict[str, torch.Tensor]  # by name, at full resolution
    fused: list[torch.Tensor]  # from 1/2 resolution down, one per level of the fusion
    features: Mapping[str, list[torch.Tensor]] = {}  # by teacher, one per layer; if asked also "student", "projected"
    parts: Sequence[Part] = ()


class Part(NamedTuple):
    """The output of some samples of a batch, which all have a label or have none."""

    samples: list[int]
    labelled: bool
    output: DistillationOutput


class DistillationNetwork(nn.Module):
    """All networks of online distillation in one forward; at inference only ``student`` is used.

    Args:
        student: the network that is shipped.
        teachers: name -> Teacher. Empty for a student trained alone.
        fusion: CDSFL over the teachers' features, or None.
        student_sequence: name of the student's sequence, or names where ``image`` stacks several. Teachers may
            see these as well.
        patients: what each training patient has, as mappings by sequence and ``label``. Teachers that no patient can
            teach or show to the student are left out, also of the fusion, and a line says so. None keeps all teachers.
        activation_checkpointing: keep no activations for the backward pass, but compute each network's again when its
            turn comes (Chen et al. 2016, https://arxiv.org/abs/1604.06174): less memory for a second forward pass.
        amp: let the networks compute in bfloat16. The losses are float32, so no gradient needs scaling.
        channels_last: keep weights and activations in this layout, which suits convolutions of CPUs.
        student_feature_layers: submodules of the student whose outputs the loss gets, as ``features["student"]``.
        projection: a module that the first of these goes through, trained with the teachers' learning rate; its
            output is ``features["projected"]``. A 1³ convolution gives it a teacher's number of channels.

    Shapes: image (B, S, H, W, D) and further sequences (B, 1, H, W, D) by name -> DistillationOutput. ``samples`` says
    which samples have a sequence or "label" where some lack it: a teacher sees only those that have all its sequences,
    and the fusion takes the teachers that are there.

    Raises:
        ValueError: if the fusion expects features that the teachers do not give, or there is a projection but no
            feature layer of the student; in forward, if a sequence that a teacher sees is missing.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Mapping[str, Teacher],
        fusion: CooperativeFusion | None = None,
        student_sequence: str | Sequence[str] = "t1ce",
        patients: Sequence[Collection[str]] | None = None,
        activation_checkpointing: bool = False,
        amp: bool = False,
        channels_last: bool = False,
        student_feature_layers: Sequence[str] = (),
        projection: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.amp = amp
        self.student_sequences = list(ensure_tuple(student_sequence))
        self.student = student
        if patients is not None:
            teachers = usable_teachers(teachers, patients, self.student_sequences)
            fusion = fusion.keep(teachers) if fusion is not None else None
        self.teachers: Any = nn.ModuleDict(teachers)
        self.fusion = fusion
        self.student_features = LayerOutputs(student, student_feature_layers)
        self.projection = projection
        if projection is not None and not student_feature_layers:
            raise ValueError("projection has nothing to project: name student_feature_layers, such as [decoder2].")
        self.expected = {name for teacher in teachers.values() for name in teacher.sequences}
        if fusion is not None:
            levels = {name: len(teacher.feature_layers) for name, teacher in teachers.items()}
            expected = {name: len(fusion.levels) for name in fusion.teachers}
            if any(levels.get(name, 0) < count for name, count in expected.items()):
                raise ValueError(
                    f"the fusion expects feature levels {expected}, but the teachers' feature_layers give {levels}: "
                    "name the layers, or set fusion::in_channels::NAME: null."
                )
        if channels_last:
            lay_channels_last(self)

    def forward(
        self, image: torch.Tensor, samples: Samples | None = None, **sequences: torch.Tensor
    ) -> DistillationOutput:
        images = dict(zip(self.student_sequences, image.split(1, dim=1))) | sequences
        if missing := sorted(self.expected - set(images)):
            raise ValueError(f"the teachers expect {sorted(self.expected)}, but {missing} are not in the batch.")
        if self.training:
            for teacher in self.teachers.values():
                teacher.follow()
        with autocast(image.device, self.amp):
            if samples is not None:
                return self.in_parts(image, images, samples)
            taught = self.teach(images, set(self.teachers))
            return self.with_student(taught, *self.run(self.run_student, image))

    def teach(self, images: Mapping[str, torch.Tensor], names: Collection[str]) -> DistillationOutput:
        """What these teachers and the fusion give for samples that have all their sequences, without the student."""
        outputs = {name: self.run(teacher, images) for name, teacher in self.teachers.items() if name in names}
        features = {name: output[1] for name, output in outputs.items()}
        fused = self.fusion(features) if self.fusion is not None else []
        return DistillationOutput([], {name: output[0] for name, output in outputs.items()}, fused, features)

    def with_student(
        self, taught: DistillationOutput, student: list[torch.Tensor], own: list[torch.Tensor]
    ) -> DistillationOutput:
        """The student's logits and own features beside what the teachers gave."""
        features = dict(taught.features) | ({"student": own} if own else {})
        features |= {"projected": [self.projection(own[0])]} if self.projection is not None else {}
        return taught._replace(student=student, features=features)

    def in_parts(self, image: torch.Tensor, images: Mapping[str, torch.Tensor], samples: Samples) -> DistillationOutput:
        """The output of each group of samples that have the same. Every weight gets a gradient, if only of 0."""
        student, own = self.run(self.run_student, image)
        zero = sum((0 * weight.sum() for weight in self.parameters() if weight.requires_grad), image.new_zeros(()))
        student = [student[0] + zero, *student[1:]]
        parts = []
        for has, numbers in groups(samples, [*sorted(self.expected), "label"], len(image)).items():
            seeing = [name for name, teacher in self.teachers.items() if set(teacher.sequences) <= set(has)]
            taught = self.teach({name: volume[numbers] for name, volume in images.items()}, seeing)
            mine = ([level[numbers] for level in levels] for levels in (student, own))
            parts.append(Part(numbers, "label" in has, self.with_student(taught, *mine)))
        return DistillationOutput(student, {}, [], {}, parts)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Also takes the weights of a student alone, which is what MONAI Label loads into the network of a training."""
        if not any(name.startswith("student.") for name in state_dict):
            return self.student.load_state_dict(state_dict, *args, **kwargs)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def run_student(self, image: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        output, features = self.student_features(image)
        return logits_list(output), features

    def run(self, network: Callable[[Any], Any], inputs: Any) -> Any:
        """One network's forward, checkpointed in training if wanted."""
        if self.activation_checkpointing and self.training:
            return checkpoint(network, inputs, use_reentrant=False)
        return network(inputs)


def further_sequences(network: DistillationNetwork, stored: bool = True) -> list[str]:
    """What the network's teachers see and its student does not, each once, in the teachers' order.

    Args:
        network: all networks.
        stored: False leaves out what is no sequence, but the prediction of another program.
    """
    found = sequences_of(network.teachers, network.student_sequences).values()
    names = dict.fromkeys(name for names in found for name in names)
    return [name for name in names if stored or name != TARGETS]


def parameter_groups(
    network: DistillationNetwork, student: Mapping[str, Any], teachers: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Named parameter groups of one optimizer: the student, and the teachers with the fusion, without frozen weights.

    Args:
        network: all networks.
        student: optimizer options of the student's group, such as ``{"lr": 1e-4}``.
        teachers: those of the other group, which is absent where nothing else learns.
    """
    own = list(network.student.parameters())
    known = {id(parameter) for parameter in own}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"name": "student", "params": own, **student}]
    return groups + ([{"name": "teachers", "params": others, **teachers}] if others else [])
