"""Losses against MONAI's and torch's own, and against the equations."""

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from scripts.method.losses import SegmentationLoss, SoftTargetLoss, resize_label


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 6, 8, 4, generator=generator), torch.randint(0, 4, (2, 1, 6, 8, 4), generator=generator)


def test_segmentation_loss_is_the_mean_of_dice_jaccard_and_cross_entropy(batch):
    logits, label = batch
    options = {"softmax": True, "to_onehot_y": True, "smooth_nr": 0.0, "smooth_dr": 1e-7}
    dice, jaccard = DiceLoss(**options)(logits, label), DiceLoss(jaccard=True, **options)(logits, label)
    expected = (dice + jaccard + F.cross_entropy(logits, label[:, 0])) / 3
    torch.testing.assert_close(SegmentationLoss()(logits, label), expected)


def test_a_perfect_prediction_costs_nothing_by_volume_but_a_third_by_slice():
    label = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    label[..., 2:4, 2:4, 2:4], label[..., 4:6, 2:4, 2:4], label[..., 6:7, 2:4, 2:4] = 1, 2, 3
    logits = 100 * F.one_hot(label[:, 0], 4).movedim(-1, 1).float()
    assert SegmentationLoss()(logits, label) < 1e-5
    # 3 of 4 classes are missing in 6 of 8 slices, and count as missed there: (2 · 3/4 · 6/8) / 3
    assert SegmentationLoss("slice")(logits, label).item() == pytest.approx(0.375, abs=1e-4)


def test_soft_target_loss_by_its_equation(batch):
    student, _ = batch
    teacher = torch.randn(student.shape, generator=torch.Generator().manual_seed(1))
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1)
    torch.testing.assert_close(SoftTargetLoss(3)(student, teacher), 9 * divergence.mean())
    authors = SoftTargetLoss(3, reduction="sum", scale="linear")
    torch.testing.assert_close(authors(student, teacher), 3 * divergence.sum() / 2)


def test_soft_target_loss_is_zero_for_equals_and_does_not_grow_with_the_patch(batch):
    student, _ = batch
    teacher = student.roll(1, 0)
    assert SoftTargetLoss()(student, student).abs() < 1e-6
    twice = [torch.cat([v, v], dim=2) for v in (student, teacher)]
    torch.testing.assert_close(SoftTargetLoss()(*twice), SoftTargetLoss()(student, teacher))


def test_tumour_focus_counts_voxels_as_far_as_the_teacher_sees_tumour(batch):
    student, _ = batch
    teacher = torch.randn(student.shape, generator=torch.Generator().manual_seed(1))
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1)
    for focus in (0.5, 1.0):
        weights = (1 - focus) + focus * teacher.softmax(1)[:, 1:].sum(1)
        expected = 4 * (weights * divergence).sum() / weights.sum()
        torch.testing.assert_close(SoftTargetLoss(2, tumour_focus=focus)(student, teacher), expected)
    torch.testing.assert_close(
        SoftTargetLoss(2, tumour_focus=1e-9)(student, teacher), SoftTargetLoss(2)(student, teacher)
    )


def test_whole_tumour_compares_tumour_of_any_class_with_background(batch):
    student, _ = batch
    teacher = student.roll(1, 0)
    p, q = (logits.softmax(1)[:, 1:].sum(1) for logits in (teacher, student))  # of tumour
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(SoftTargetLoss(1, whole_tumour=True)(student, teacher), expected)
    swapped = teacher[:, [0, 2, 3, 1]]  # other classes of the same tumour
    loss = SoftTargetLoss(4, whole_tumour=True)
    torch.testing.assert_close(loss(student, swapped), loss(student, teacher))


def test_soft_targets_do_not_train_the_teacher(batch):
    student, _ = batch
    student, teacher = student.requires_grad_(), student.detach().roll(1, 0).requires_grad_()
    SoftTargetLoss()(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_labels_are_halved_at_index_2k():
    label = torch.arange(8 * 8 * 8).view(1, 1, 8, 8, 8)
    assert torch.equal(resize_label(label, torch.zeros(1, 4, 4, 4, 4)), label[..., ::2, ::2, ::2].float())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SegmentationLoss("batch"), "got 'batch'"),
        (lambda: SoftTargetLoss(0), "positive, got 0"),
        (lambda: SoftTargetLoss(reduction="voxel"), "got 'voxel'"),
        (lambda: SoftTargetLoss(scale="cubic"), "got 'cubic'"),
        (lambda: SoftTargetLoss(tumour_focus=2), "got 2"),
        (lambda: SegmentationLoss()(torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 2, 2, 2)), "expected a label of shape"),
        (lambda: SoftTargetLoss()(torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 3, 2, 2, 2)), "differ"),
    ],
)
def test_refused_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
