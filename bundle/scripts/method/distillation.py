"""Student, teachers and fusion as one module, so that one trainer, one optimizer and one DDP wrapper serve them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from scripts.device import autocast, lay_channels_last
from scripts.errors import UserError
from scripts.labels import SEQUENCES
from scripts.method.features import LayerOutputs, logits_list
from scripts.method.fusion import CooperativeFusion

__all__ = ["DistillationNetwork", "DistillationOutput", "Teacher", "load_weights", "parameter_groups", "sequences_of"]

logger = logging.getLogger(__name__)


class DistillationOutput(NamedTuple):
    """What one training forward gives: logits (B, C, h, w, d) and features (B, F, h, w, d)."""

    student: list[torch.Tensor]  # from full resolution down, as many as it has heads
    teachers: dict[str, torch.Tensor]  # by name, at full resolution
    fused: list[torch.Tensor]  # from 1/2 resolution down, one per level of the fusion
    features: Mapping[str, list[torch.Tensor]] = {}  # by teacher, one per layer; if asked also "student", "projected"


class Teacher(nn.Module):
    """A network, the sequences that it sees, and the layers whose outputs it gives to the fusion.

    Args:
        network: any segmentation network; of several outputs the first is taken.
        sequences: name of its input sequence, or names, stacked on the channel axis in this order.
        feature_layers: submodules of ``network`` whose outputs are fused, from 1/2 resolution down.
        frozen: keep the weights as loaded: no gradient, always in eval mode.
        checkpoint: a state dict of ``network``, loaded at construction.

    Shapes: {sequence: (B, 1, H, W, D)} -> logits (B, C, H, W, D), [features (B, F, h, w, d), one per layer].

    Raises:
        ValueError: if a feature layer is not in the network, or the teacher is frozen without a checkpoint.
        UserError: if the checkpoint is missing or not a state dict of the network.
    """

    def __init__(
        self,
        network: nn.Module,
        sequences: str | Sequence[str],
        feature_layers: Sequence[str] = (),
        frozen: bool = False,
        checkpoint: str | None = None,
    ) -> None:
        super().__init__()
        self.sequences = [sequences] if isinstance(sequences, str) else list(sequences)
        if set(self.sequences) - set(SEQUENCES):
            raise ValueError(f"a teacher's sequences are {self.sequences}, expected some of {list(SEQUENCES)}.")
        if frozen and not checkpoint:
            raise ValueError(f"the teacher of {self.sequences} is frozen but has no checkpoint: give one.")
        self.network = network
        self.frozen = frozen
        self.checkpoint = checkpoint
        self.features = LayerOutputs(network, feature_layers)
        self.feature_layers = list(feature_layers)
        if checkpoint:
            load_weights(network, checkpoint)
        if frozen:
            network.requires_grad_(False)
            self.eval()

    def train(self, mode: bool = True) -> Teacher:
        return super().train(mode and not self.frozen)

    def forward(self, images: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        output, features = self.features(torch.cat([images[name] for name in self.sequences], dim=1))
        return logits_list(output)[0], features


class DistillationNetwork(nn.Module):
    """All networks of online distillation in one forward; at inference only ``student`` is used.

    Args:
        student: the network that is shipped.
        teachers: name -> Teacher. Empty for a student trained alone.
        fusion: CDSFL over the teachers' features, or None.
        student_sequence: name of the student's sequence, or names where ``image`` stacks several. Teachers may
            see these as well.
        sequences: further sequences that the patients have. Teachers that see others are left out, also of the
            fusion, and a line says so. None keeps all teachers.
        activation_checkpointing: keep no activations for the backward pass, but compute each network's again when its
            turn comes (Chen et al. 2016, https://arxiv.org/abs/1604.06174): less memory for a second forward pass.
        amp: let the networks compute in bfloat16. The losses are float32, so no gradient needs scaling.
        channels_last: keep weights and activations in this layout, which suits convolutions of GPUs (and of CPUs in
            float32).
        student_feature_layers: submodules of the student whose outputs the loss gets, as ``features["student"]``.
        projection: a module that the first of these goes through, trained with the teachers' learning rate; its
            output is ``features["projected"]``. A 1³ convolution gives it a teacher's number of channels.

    Shapes: image (B, S, H, W, D) and further sequences (B, 1, H, W, D) by name -> DistillationOutput.

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
        sequences: Sequence[str] | None = None,
        activation_checkpointing: bool = False,
        amp: bool = False,
        channels_last: bool = False,
        student_feature_layers: Sequence[str] = (),
        projection: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.amp = amp
        self.student_sequences = [student_sequence] if isinstance(student_sequence, str) else list(student_sequence)
        self.student = student
        if sequences is not None:
            teachers = usable_teachers(teachers, {*self.student_sequences, *sequences})
            fusion = fusion.keep(teachers) if fusion is not None else None
        self.teachers = nn.ModuleDict(teachers)
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
                    "name the layers, or take the teacher out of fusion.in_channels."
                )
        if channels_last:
            lay_channels_last(self)

    def forward(self, image: torch.Tensor, **sequences: torch.Tensor) -> DistillationOutput:
        images = dict(zip(self.student_sequences, image.split(1, dim=1))) | sequences
        if missing := sorted(self.expected - set(images)):
            raise ValueError(f"the teachers expect {sorted(self.expected)}, but {missing} are not in the batch.")
        with autocast(image.device, self.amp):
            outputs = {name: self.run(teacher, images) for name, teacher in self.teachers.items()}
            features = {name: output[1] for name, output in outputs.items()}
            student, own = self.run(self.run_student, image)
            fused = self.fusion(features) if self.fusion is not None else []
            features |= {"student": own} if own else {}
            features |= {"projected": [self.projection(own[0])]} if self.projection is not None else {}
            teachers = {name: output[0] for name, output in outputs.items()}
            return DistillationOutput(student, teachers, fused, features)

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


def sequences_of(teachers: Mapping[str, Teacher], student_sequence: str | Sequence[str]) -> list[str]:
    """What the teachers see and the student does not, each once, in the teachers' order."""
    student = [student_sequence] if isinstance(student_sequence, str) else student_sequence
    seen = dict.fromkeys(name for teacher in teachers.values() for name in teacher.sequences)
    return [name for name in seen if name not in student]


def usable_teachers(teachers: Mapping[str, Teacher], sequences: Collection[str]) -> dict[str, Teacher]:
    """The teachers whose sequences are among these; a line names the others."""
    usable = {name: teacher for name, teacher in teachers.items() if set(teacher.sequences) <= set(sequences)}
    if left_out := [name for name in teachers if name not in usable]:
        rest = f"{', '.join(usable)} still teach(es)" if usable else "the student learns from labels alone"
        logger.warning(
            f"Teachers left out, since no training patient has what they see: {', '.join(left_out)}; {rest}."
        )
    return usable


def load_weights(network: nn.Module, path: str) -> None:
    """Load a bare state dict into a network, strictly.

    Raises:
        UserError: if the file is missing, or is not a state dict of this network; names file and remedy.
    """
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path} does not exist: train first, or give the path of a state dict.")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways; the user needs the file, not the way
        raise UserError(
            f"checkpoint {path} is not a file of weights ({type(error).__name__}): give a model.pt."
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        raise UserError(f"checkpoint {path} holds more than one network's weights: give the model.pt beside it.")
    if spoilt := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise UserError(f"checkpoint {path} holds NaN or infinity, first in {spoilt[0]}: give other weights.")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        wanted = network.state_dict()
        differing = [name for name in wanted | weights if shape_of(wanted, name) != shape_of(weights, name)]
        first = [f"{name} is {shape_of(weights, name)}, expected {shape_of(wanted, name)}" for name in differing[:3]]
        raise UserError(
            f"checkpoint {path} does not fit {type(network).__name__} in {len(differing)} layers: give the weights of "
            "this network, or the options that it was trained with (such as --student_widths or --deep_supervision). "
            f"First: {'; '.join(first)}."
        ) from error


def shape_of(weights: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(weights[name].shape) if name in weights else "absent"


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
