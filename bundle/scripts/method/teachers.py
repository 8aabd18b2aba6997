"""Teachers: a network and what it sees, or what another program predicted before."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from scripts.labels import CLASSES, SEQUENCES, TARGETS
from scripts.method.features import LayerOutputs, logits_list
from scripts.method.weights import load_weights

__all__ = ["StoredTeacher", "Teacher", "sequences_of", "usable_teachers"]


logger = logging.getLogger(__name__)


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

    follows = False  # whether its weights change though it does not learn

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
        self.channels = len(self.sequences)
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

    def follow(self) -> None:
        """Called once before each training forward, for teachers that follow another network."""

    def forward(self, images: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        output, features = self.features(torch.cat([images[name] for name in self.sequences], dim=1))
        return logits_list(output)[0], features


class StoredTeacher(Teacher):
    """A teacher whose class probabilities lie in files (``--targets``), so that a slow one runs once.

    Its logits are log p, with p at least ``floor``. So its soft targets are those of the program that wrote the files,
    whatever the temperature. Where an augmented patch reaches beyond the volume, the background is certain.

    Args:
        floor: least probability; 8-bit files round to 1/255.

    Shapes: {"targets": (B, C, H, W, D)} -> logits (B, C, H, W, D), [].
    """

    def __init__(self, floor: float = 1e-3) -> None:
        super().__init__(LogProbabilities(floor), [])
        self.sequences = [TARGETS]
        self.channels = len(CLASSES)
        self.frozen = True


class LogProbabilities(nn.Module):
    """log p of class probabilities (B, C, H, W, D), the background first; what is missing to 1 is background."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        missing = 1 - probabilities.sum(dim=1, keepdim=True)
        background = probabilities[:, :1] + missing
        return torch.cat([background, probabilities[:, 1:]], dim=1).clamp_min(self.floor).log()


def sequences_of(teachers: Mapping[str, Teacher], student_sequence: str | Sequence[str]) -> dict[str, list[str]]:
    """What each teacher sees and the student does not, by its name."""
    student = [student_sequence] if isinstance(student_sequence, str) else student_sequence
    return {key: [name for name in teacher.sequences if name not in student] for key, teacher in teachers.items()}


def usable_teachers(
    teachers: Mapping[str, Teacher], patients: Sequence[Collection[str]], student_sequences: Sequence[str]
) -> dict[str, Teacher]:
    """The teachers for which a patient has all sequences, and a label unless they are frozen; a line names the others.

    Args:
        teachers: by name.
        patients: what each has, by name: sequences and ``label``.
        student_sequences: what all have.
    """
    usable = {}
    for name, teacher in teachers.items():
        needed = {*teacher.sequences, *([] if teacher.frozen else ["label"])} - set(student_sequences)
        if any(needed <= set(patient) for patient in patients):
            usable[name] = teacher
    if left_out := [name for name in teachers if name not in usable]:
        rest = f"{', '.join(usable)} still teach(es)" if usable else "the student learns from labels alone"
        logger.warning(
            f"Teachers left out, since no training patient has what they see and learn from: {', '.join(left_out)}; "
            f"{rest}."
        )
    return usable
