"""The cheap rival: which sequences are left."""

from __future__ import annotations

import torch

from modality_dropout import RandDropSequencesd


def left_of(transform: RandDropSequencesd, times: int) -> list[tuple[bool, ...]]:
    image = torch.ones(4, 2, 2, 2)
    left = [tuple((transform({"image": image})["image"].amax((1, 2, 3)) > 0).tolist()) for _ in range(times)]
    assert image.all()  # that of the caller
    return left


def test_t1ce_stays_and_half_of_the_patches_have_it_alone():
    transform = RandDropSequencesd("image", kept=2)
    transform.set_random_state(0)
    left = left_of(transform, 4000)
    assert all(channels[2] for channels in left)
    alone = sum(channels == (False, False, True, False) for channels in left) / len(left)
    assert abs(alone - (1 / 2 + 1 / 2 / 8)) < 0.03  # by decree, and by three even odds
    assert abs(sum(channels[0] for channels in left) / len(left) - 1 / 4) < 0.03
    assert len(set(left)) == 8


def test_for_scores_t1ce_is_shown_alone():
    transform = RandDropSequencesd("image", kept=2, alone=1.0)
    assert set(left_of(transform, 50)) == {(False, False, True, False)}
