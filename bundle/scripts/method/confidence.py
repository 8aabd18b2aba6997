"""How much the student listens to each teacher: weights in proportion to the teachers' whole-tumour Dice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn


def whole_tumour_dice(logits: torch.Tensor, label: torch.Tensor, score: str = "volume") -> torch.Tensor:
    """Whole-tumour Dice of each volume: any class but background, predicted against true.

    ``score="slice_mean"`` is the MTCM-KD authors' definition: Dice of each slice along the first axis, averaged, a
    slice empty in both counting 1. It makes teachers look alike, so volumetric Dice is the default.

    Shapes: logits (B, C, H, W, D), label (B, 1, H, W, D) -> (B,), NaN where volumetric Dice is undefined (no tumour
    in either).
    """
    predicted = logits[:, 1:].amax(dim=1) > logits[:, 0]  # (B, H, W, D); argmax over few channels is 70 times slower
    truth = label[:, 0] > 0
    axes = (1, 2, 3) if score == "volume" else (2, 3)
    intersection = (predicted & truth).sum(axes)
    total = predicted.sum(axes) + truth.sum(axes)
    dice = 2 * intersection / total  # NaN where both are empty
    return dice if score == "volume" else dice.nan_to_num(nan=1.0).mean(dim=1)


class TeacherConfidence(nn.Module):
    """Performance-aware teacher weights: w_i = total · dice_i / Σ_j dice_j, renewed after every epoch (MTCM-KD).

    dice_i is the mean over the epoch's labelled training volumes that the teacher sees, left out where there is no
    tumour in label and prediction. A teacher without such a volume keeps its last Dice, and counts as the mean of the
    others until it has one. The state (weights, Dice and running sums) is in buffers, so that it travels with
    checkpoints.

    Args:
        teachers: names, in the order of the weights.
        total: sum of the weights after the first update.
        initial: every teacher's weight before it.
        score: "volume", or "slice_mean" as the authors do.
        dynamic: False keeps the initial weights (the ablation "fixed weights").

    Shapes: ``weights``, ``dice`` (M,).

    Raises:
        ValueError: if score is unknown, or a weight negative.
    """

    weights: torch.Tensor
    dice: torch.Tensor
    dice_sum: torch.Tensor
    volumes: torch.Tensor

    def __init__(
        self,
        teachers: Sequence[str],
        total: float = 0.15,
        initial: float = 0.1,
        score: str = "volume",
        dynamic: bool = True,
    ) -> None:
        super().__init__()
        if score not in ("volume", "slice_mean"):
            raise ValueError(f'score must be "volume" or "slice_mean", got {score!r}.')
        if min(total, initial) < 0:
            raise ValueError(f"total and initial must be at least 0, got {total} and {initial}.")
        self.teachers = list(teachers)
        self.total = total
        self.score = score
        self.dynamic = dynamic
        self.register_buffer("weights", torch.full((len(self.teachers),), float(initial)))
        self.register_buffer("dice", torch.full((len(self.teachers),), torch.nan))  # until it is known
        self.register_buffer("dice_sum", torch.zeros(len(self.teachers), dtype=torch.float64))
        self.register_buffer("volumes", torch.zeros(len(self.teachers), dtype=torch.float64))

    def as_dict(self) -> dict[str, torch.Tensor]:
        """Weight of each teacher, scalars."""
        return dict(zip(self.teachers, self.weights))

    @torch.no_grad()
    def accumulate(self, logits: Mapping[str, torch.Tensor], label: torch.Tensor) -> None:
        """Add one batch, of the teachers that saw it. Shapes: {teacher: (B, C, H, W, D)}, label (B, 1, H, W, D)."""
        label = label.as_subclass(torch.Tensor)  # MONAI's MetaTensor would turn the buffers into its kind
        for index, name in enumerate(self.teachers):
            if name in logits:
                dice = whole_tumour_dice(logits[name].as_subclass(torch.Tensor), label, self.score)
                self.dice_sum[index] += dice.nansum()
                self.volumes[index] += (~dice.isnan()).sum()

    @torch.no_grad()
    def update(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums) -> dict[str, float]:
        """Renew the weights from the epoch's sums and clear these; the Dice of the teachers that had volumes, by name.

        ``reduce`` adds the sums of all ranks, (2, M).
        """
        dice_sum, volumes = reduce(torch.stack([self.dice_sum, self.volumes]))
        seen = volumes > 0
        self.dice[seen] = (dice_sum[seen] / volumes[seen]).to(self.dice.dtype)
        if self.dynamic and self.teachers:
            dice = self.dice.nan_to_num(nan=float(self.dice.nanmean().nan_to_num()))
            share = dice / dice.sum() if dice.sum() > 0 else torch.full_like(dice, 1 / len(self.teachers))
            self.weights.copy_(self.total * share)
        self.dice_sum.zero_()
        self.volumes.zero_()
        return {name: dice.item() for name, dice, known in zip(self.teachers, self.dice, seen) if known}
