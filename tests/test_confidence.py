"""Teacher weights against hand-computed Dice."""

import pytest
import torch
import torch.nn.functional as F
from monai.metrics import DiceMetric

from scripts.method.confidence import TeacherConfidence, whole_tumour_dice


def logits_of(label):
    return F.one_hot(label[:, 0].long(), 4).movedim(-1, 1).float()


def masks(seed):
    return torch.randint(0, 4, (2, 1, 6, 6, 6), generator=torch.Generator().manual_seed(seed))


def test_whole_tumour_dice_is_monais():
    predicted, truth = masks(0), masks(1)
    metric = DiceMetric(include_background=True, reduction="none")
    expected = metric((predicted > 0).float(), (truth > 0).float())[:, 0]
    torch.testing.assert_close(whole_tumour_dice(logits_of(predicted), truth), expected)


def test_slice_mean_counts_empty_slices_as_perfect():
    truth = torch.zeros(1, 1, 4, 4, 4)
    truth[:, :, 0] = 1
    nothing = torch.zeros(1, 4, 4, 4, 4)
    nothing[:, 0] = 1
    assert whole_tumour_dice(nothing, truth, "slice_mean").item() == pytest.approx(0.75)
    assert whole_tumour_dice(nothing, truth).item() == 0


def test_weights_follow_the_dice_of_all_batches_and_sum_to_their_total():
    confidence = TeacherConfidence(["good", "bad"], total=0.15)
    dice = {"good": [], "bad": []}
    for seed in range(3):
        truth = masks(seed)
        predictions = {"good": truth.clone(), "bad": masks(seed + 10)}
        predictions["good"][:, :, :2] = 0
        logits = {name: logits_of(label) for name, label in predictions.items()}
        confidence.accumulate(logits, truth)
        for name in dice:
            dice[name].append(whole_tumour_dice(logits[name], truth))
    confidence.update()
    means = torch.stack([torch.cat(dice[name]).mean() for name in ("good", "bad")])
    torch.testing.assert_close(confidence.weights, 0.15 * means / means.sum())
    assert confidence.weights.sum().item() == pytest.approx(0.15)


def test_weights_hold_during_an_epoch_and_sums_start_anew():
    confidence = TeacherConfidence(["a", "b"], initial=0.1)
    truth = masks(0)
    confidence.accumulate({"a": logits_of(truth), "b": logits_of(masks(1))}, truth)
    assert confidence.weights.tolist() == pytest.approx([0.1, 0.1])
    confidence.update()
    confidence.accumulate({"a": logits_of(masks(1)), "b": logits_of(truth)}, truth)
    confidence.update()
    assert confidence.dice[1] == 1
    assert confidence.weights[1] > confidence.weights[0]


def test_volumes_without_tumour_do_not_count():
    confidence = TeacherConfidence(["a", "b"])
    empty, truth = torch.zeros(1, 1, 6, 6, 6), masks(0)[:1]
    for label in (empty, truth):
        confidence.accumulate({"a": logits_of(label), "b": logits_of(label)}, label)
    confidence.update()
    assert confidence.dice.tolist() == [1, 1]


def test_teachers_that_all_fail_weigh_alike():
    confidence = TeacherConfidence(["a", "b", "c"], total=0.3)
    nothing = {name: logits_of(torch.zeros(1, 1, 6, 6, 6)) for name in "abc"}
    confidence.accumulate(nothing, masks(0)[:1])
    confidence.update()
    assert confidence.weights.tolist() == pytest.approx([0.1, 0.1, 0.1])


def test_a_teacher_that_saw_no_labelled_patient_counts_as_the_mean_of_the_others():
    confidence = TeacherConfidence(["a", "b", "stored"], total=0.3)
    truth, half = masks(0)[:1], masks(0)[:1].clone()
    half[..., :3] = 0
    confidence.accumulate({"a": logits_of(truth), "b": logits_of(half)}, truth)
    confidence.update()
    part = 2 * int(half.count_nonzero()) / int(half.count_nonzero() + truth.count_nonzero())
    assert 0 < part < 1
    known = [1, part, (1 + part) / 2]
    assert confidence.weights.tolist() == pytest.approx([0.3 * value / sum(known) for value in known])
    assert confidence.update() == {}  # an epoch without any such volume changes nothing
    assert confidence.weights.tolist() == pytest.approx([0.3 * value / sum(known) for value in known])
    confidence.accumulate({"a": logits_of(truth), "stored": logits_of(truth)}, truth)
    assert confidence.update() == {"a": 1, "stored": 1}
    known = [1, part, 1]  # b keeps what it had
    assert confidence.weights.tolist() == pytest.approx([0.3 * value / sum(known) for value in known])


def test_fixed_weights_stay_but_dice_is_known():
    confidence = TeacherConfidence(["a"], dynamic=False, initial=0.2)
    confidence.accumulate({"a": logits_of(masks(0))}, masks(0))
    confidence.update()
    assert confidence.weights.item() == pytest.approx(0.2)
    assert confidence.dice.item() == 1


def test_sums_of_several_ranks_equal_one():
    one, ranks = TeacherConfidence(["a", "b"]), [TeacherConfidence(["a", "b"]) for _ in range(2)]
    for seed in range(3):
        batch = {"a": logits_of(masks(seed + 20)), "b": logits_of(masks(seed + 30))}
        one.accumulate(batch, masks(seed))
        ranks[seed % 2].accumulate(batch, masks(seed))
    sums = sum(torch.stack([rank.dice_sum, rank.volumes]) for rank in ranks)
    one.update()
    ranks[0].update(reduce=lambda _: sums)
    torch.testing.assert_close(ranks[0].weights, one.weights)


@pytest.mark.parametrize("options, message", [({"score": "iou"}, "got 'iou'")])
def test_refused_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TeacherConfidence(**{"teachers": ["a"], **options})
