"""Teachers: a network, what it sees, and whom it can teach."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from monai.utils import ensure_tuple
from torch import nn

from scripts.errors import UserError
from scripts.labels import SEQUENCES
from scripts.method.features import LayerOutputs, logits_list
from scripts.method.weights import load_weights

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
        ValueError: if the teacher is frozen without a checkpoint.
        UserError: if a feature layer is not in the network, or the checkpoint is missing or no state dict of it.
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
        self.sequences = list(ensure_tuple(sequences))
        if set(self.sequences) - set(SEQUENCES):
            raise ValueError(f"a teacher's sequences are {self.sequences}, expected some of {list(SEQUENCES)}.")
        if frozen and not checkpoint:
            raise ValueError(f"the teacher of {self.sequences} is frozen but has no checkpoint: give one.")
        self.channels = len(self.sequences)
        self.network = network
        self.frozen = frozen
        self.checkpoint = checkpoint
        try:
            self.features = LayerOutputs(network, feature_layers)
        except ValueError as error:
            raise UserError(
                f"the teacher of {self.sequences}: {error} Give teachers::NAME::feature_layers layers that it has, or "
                "[] and fusion::in_channels::NAME: null."
            ) from error
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


def sequences_of(teachers: Mapping[str, Teacher], student_sequence: str | Sequence[str]) -> dict[str, list[str]]:
    """What each teacher sees and the student does not, by its name. Raises UserError for one that is no teacher."""
    student = ensure_tuple(student_sequence)
    for key, teacher in teachers.items():
        if not hasattr(teacher, "sequences"):
            raise UserError(
                f"teachers::{key} is a {type(teacher).__name__}, expected scripts.method.teachers.Teacher: name it as "
                f"_target_, and this as teachers::{key}::network."
            )
    return {key: [name for name in teacher.sequences if name not in student] for key, teacher in teachers.items()}


def can_teach(seen: Collection[str], frozen: bool, patients: Iterable[Collection[str]]) -> bool:
    """Whether a patient has all that a teacher sees, and a label unless the teacher is frozen."""
    needed = {*seen} if frozen else {*seen, "label"}
    return any(needed <= {*has} for has in patients)


def usable_teachers(
    teachers: Mapping[str, Teacher], patients: Sequence[Collection[str]], student_sequences: Sequence[str]
) -> dict[str, Teacher]:
    """The teachers for which a patient has all sequences, and a label unless they are frozen; a line names the others.

    Args:
        teachers: by name.
        patients: what each has, by name: sequences and ``label``.
        student_sequences: what all have.
    """
    further = sequences_of(teachers, student_sequences)
    for name in [name for name, one in teachers.items() if not (further[name] or one.follows)]:
        logger.warning(f"Teacher {name} sees no other sequence than the student, {', '.join(student_sequences)}.")
    usable = {name: one for name, one in teachers.items() if can_teach(further[name], one.frozen, patients)}
    if left_out := [name for name in teachers if name not in usable]:
        rest = f"{', '.join(usable)} still teach(es)" if usable else "the student learns from labels alone"
        logger.warning(
            f"Teachers left out, since no training patient has what they see and learn from: {', '.join(left_out)}; "
            f"{rest}."
        )
    return usable
