"""Losses against MONAI's and torch's own, and against the equations."""

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from scripts.confidence import TeacherConfidence
from scripts.distillation import DistillationOutput
from scripts.losses import DistillationLoss, SegmentationLoss, SoftTargetLoss, resize_label


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 6, 8, 4, generator=generator), torch.randint(0, 4, (2, 1, 6, 8, 4), generator=generator)


def output(seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)

    def logits(size):
        return torch.randn(2, 4, size, size, size, generator=generator, requires_grad=grad)

    return DistillationOutput([logits(8), logits(4)], {"flair": logits(8), "t2": logits(8)}, [logits(4)])


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


def test_named_terms_add_up_to_the_published_sum():
    out, label = output(), torch.randint(0, 4, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(5))
    confidence = TeacherConfidence(["flair", "t2"])
    confidence.weights.copy_(torch.tensor([0.05, 0.1]))
    seg, kd = SegmentationLoss(), SoftTargetLoss()
    loss = DistillationLoss(seg, kd, confidence, distilling=True)
    half = label[..., ::2, ::2, ::2]
    expected = {
        "teacher_flair": seg(out.teachers["flair"], label),
        "teacher_t2": seg(out.teachers["t2"], label),
        "fusion_1": 0.08 * seg(out.fused[0], half),
        "student": 0.75 * seg(out.student[0], label),
        "distil_flair": 0.05 * kd(out.student[0], out.teachers["flair"]),
        "distil_t2": 0.1 * kd(out.student[0], out.teachers["t2"]),
        "student_deep_1": 0.1 * 0.7 * seg(out.student[1], half),
        "distil_fusion_1": 0.1 * 0.3 * kd(out.student[1], out.fused[0]),
    }
    total = loss(out, label)
    assert list(loss.terms) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(loss.terms[name], value.detach(), msg=name)
    torch.testing.assert_close(total, sum(expected.values()))


def test_one_backward_pass_equals_the_two_of_the_authors():
    label = torch.randint(0, 4, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(5))
    loss = DistillationLoss(SegmentationLoss(), SoftTargetLoss(), TeacherConfidence(["flair", "t2"]), distilling=True)
    once, twice = output(), output()
    loss(once, label).backward()
    sum(loss.teacher_terms(twice, label).values()).backward()
    sum(loss.student_terms(twice, label).values()).backward()
    for a, b in [*zip(once.student, twice.student), *zip(once.teachers.values(), twice.teachers.values())]:
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(once.fused[0].grad, twice.fused[0].grad)


def test_in_the_warm_up_the_student_learns_from_labels_alone():
    out, label = output(), torch.randint(0, 4, (2, 1, 8, 8, 8))
    loss = DistillationLoss(SegmentationLoss(), SoftTargetLoss(), TeacherConfidence(["flair", "t2"]))
    student = loss.student_terms(out, label)
    torch.testing.assert_close(sum(student.values()), SegmentationLoss()(out.student[0], label))
    sum(student.values()).backward()
    assert out.student[1].grad.abs().sum() == 0  # a gradient of 0, not none: DistributedDataParallel needs it


def test_without_teachers_only_labels_remain():
    out = DistillationOutput(output().student, {}, [])
    loss = DistillationLoss(SegmentationLoss(), SoftTargetLoss(), distilling=True)
    loss(out, torch.zeros(2, 1, 8, 8, 8))
    assert set(loss.terms) == {"student", "student_deep_1"}


def test_a_frozen_teacher_has_no_loss_of_its_own():
    out = output()
    out.teachers["flair"] = out.teachers["flair"].detach()
    loss = DistillationLoss(SegmentationLoss(), SoftTargetLoss(), TeacherConfidence(["flair", "t2"]), distilling=True)
    loss(out, torch.zeros(2, 1, 8, 8, 8))
    assert "teacher_flair" not in loss.terms
    assert loss.terms["distil_flair"] > 0


def test_a_student_without_deep_heads_meets_the_fusion_with_its_own_logits():
    out = output()
    loss = DistillationLoss(SegmentationLoss(), SoftTargetLoss(), TeacherConfidence(["flair", "t2"]), distilling=True)
    terms = loss.student_terms(out._replace(student=out.student[:1]), torch.zeros(2, 1, 8, 8, 8))
    own = F.avg_pool3d(out.student[0], 2)  # trilinear halving of an even grid is the mean of each 2³ block
    torch.testing.assert_close(terms["distil_fusion_1"], 0.03 * SoftTargetLoss()(own, out.fused[0]))


def test_more_levels_than_weights_are_refused():
    out = output()
    loss = DistillationLoss(SegmentationLoss(), SoftTargetLoss(), deep_weights=[], distilling=True)
    with pytest.raises(ValueError, match="1 lower-resolution outputs, but deep_weights has 0"):
        loss(out._replace(teachers={}, fused=[]), torch.zeros(2, 1, 8, 8, 8))


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
