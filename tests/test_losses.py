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
    assert SegmentationLoss("slice", smooth_absent=0)(logits, label).item() == pytest.approx(0.375, abs=1e-4)


def by_slice(logits, label):
    """The authors' definition, written out: ratios of each class in each slice, over the whole batch."""
    p, truth = logits.softmax(1), F.one_hot(label[:, 0], 4).movedim(-1, 1).float()
    dice, jaccard = [], []
    for c in range(4):
        for z in range(label.shape[-1]):
            both, total = (p[:, c, ..., z] * truth[:, c, ..., z]).sum(), (p + truth)[:, c, ..., z].sum()
            dice.append(1 - 2 * both / total)
            jaccard.append(1 - both / (total - both))
    return (torch.stack(dice).mean() + torch.stack(jaccard).mean() + F.cross_entropy(logits, label[:, 0])) / 3


def test_slices_are_summed_over_the_batch_as_the_authors_do(batch):
    logits, label = batch
    label[0, ..., :2], label[1, ..., :3] = 0, 0  # slices without tumour in both, which count as a full miss, or in one
    torch.testing.assert_close(SegmentationLoss("slice", smooth_absent=0)(logits, label), by_slice(logits, label))
    alone = torch.stack([by_slice(logits[i : i + 1], label[i : i + 1]) for i in range(2)]).mean()
    assert (by_slice(logits, label) - alone).abs() > 1e-3  # so the batch matters


def finds(voxels, size=16):
    """Probabilities near 0 and 1: background, class 1 where it is, and class 2, which is nowhere, in some voxels."""
    label = torch.zeros(1, 1, size, size, size, dtype=torch.long)
    label[..., :4] = 1
    predicted = label.clone()
    predicted.view(-1)[: voxels * size : size] = 2
    logits = 60 * F.one_hot(predicted[:, 0], 3).movedim(-1, 1).float()
    return logits.requires_grad_(), label


def test_a_class_that_is_absent_costs_what_is_predicted_of_it():
    k, voxels = 0.01 * 16**3, 20
    logits, label = finds(voxels)
    no_absent = F.cross_entropy(logits, label[:, 0])
    p, truth = logits.softmax(1), F.one_hot(label[:, 0], 3).movedim(-1, 1).float()
    for c in (0, 1):
        both, total = (p * truth)[0, c].sum(), (p + truth)[0, c].sum()
        no_absent = no_absent + (1 - 2 * both / total) / 3 + (1 - both / (total - both)) / 3
    expected = (no_absent + 2 / 3 * voxels / (voxels + k)) / 3
    torch.testing.assert_close(SegmentationLoss()(logits, label), expected)
    full_miss = (no_absent + 2 / 3) / 3
    torch.testing.assert_close(SegmentationLoss(smooth_absent=0)(logits, label), full_miss)


def test_the_cost_of_an_absent_class_falls_to_nothing_and_pulls_where_it_is_found():
    costs = [SegmentationLoss()(*finds(voxels)).item() for voxels in (200, 20, 2, 0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 1e-6
    label = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    gradients = []
    for smooth_absent in (0.01, 0.0):
        logits = torch.zeros(1, 2, 8, 8, 8)
        logits[:, 0] = 12.0  # sure of background ...
        logits[..., 0, 0, 0] = 0.0  # but for one voxel
        logits.requires_grad_()
        SegmentationLoss(smooth_absent=smooth_absent)(logits, label).backward()
        gradients.append(logits.grad[0, 1, 0, 0, 0].item())
    assert gradients[0] > 10 * gradients[1] > 0


def test_a_false_find_costs_the_same_at_half_resolution():
    logits, label = finds(0)
    logits = logits.detach()
    logits[0, :, 8:10, 8:10, 8:10] = 60 * torch.tensor([0.0, 0.0, 1.0])[:, None, None, None]
    half = SegmentationLoss()(logits[..., ::2, ::2, ::2], label[..., ::2, ::2, ::2])
    torch.testing.assert_close(SegmentationLoss()(logits, label), half)


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
        (lambda: SegmentationLoss(smooth_absent=-1), "got -1"),
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
