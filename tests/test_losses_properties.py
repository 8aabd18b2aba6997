"""What holds for the losses of any logits and labels."""

import pytest
import torch
import torch.nn.functional as F

from scripts.method.losses import SegmentationLoss, SoftTargetLoss
from scripts.variants.forms import ChannelWiseLoss, CorrelationLoss, RegionLoss, StandardisedLoss

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
settings = hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)

DISTANCES = [SoftTargetLoss(), SoftTargetLoss(20, "sum", "linear"), SoftTargetLoss(tumour_focus=1.0, whole_tumour=True)]
DISTANCES += [StandardisedLoss(), ChannelWiseLoss(), CorrelationLoss(), RegionLoss()]
SEGMENTATION = [SegmentationLoss(), SegmentationLoss("slice", smooth_absent=0), SegmentationLoss(smooth_absent=0)]


@st.composite
def batches(draw, scales=(0.0, 1e-30, 1e-3, 1.0, 30.0, 1e4, 1e8)):
    """Logits of any scale, those of a teacher of another, and labels with any set of classes."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(1, 3)), 4, *(draw(st.integers(1, 5)) for _ in range(3)))
    pair = [draw(st.sampled_from(scales)) * torch.randn(shape, generator=generator) for _ in range(2)]
    present = torch.tensor(sorted(draw(st.sets(st.integers(0, 3), min_size=1))))
    label = present[torch.randint(len(present), (shape[0], 1, *shape[2:]), generator=generator)]
    return *(logits.requires_grad_() for logits in pair), label


def finite_with_gradient(loss, logits):
    logits.grad = None
    loss.backward()
    return bool(torch.isfinite(loss)) and bool(torch.isfinite(logits.grad).all())


@settings
@hypothesis.given(batches())
def test_losses_are_finite(batch):
    student, teacher, label = batch
    for loss in SEGMENTATION:
        assert finite_with_gradient(loss(student, label), student), vars(loss)
    for loss in DISTANCES:
        assert finite_with_gradient(loss(student, teacher), student), loss
        assert loss(student, teacher) >= -1e-3 * loss(student, -student).abs().clamp(min=1), loss


@settings
@hypothesis.given(batches())
def test_a_perfect_prediction_costs_nothing_with_any_set_of_classes(batch):
    *_, label = batch
    logits = 1000 * F.one_hot(label[:, 0], 4).movedim(-1, 1).float()
    assert SegmentationLoss()(logits, label) < 1e-5


@settings
@hypothesis.given(batches(scales=(1e-3, 1.0, 30.0)))
def test_the_order_of_a_batch_does_not_matter(batch):
    student, teacher, label = batch
    for loss in SEGMENTATION:
        torch.testing.assert_close(loss(student.flip(0), label.flip(0)), loss(student, label))
    for loss in DISTANCES:
        torch.testing.assert_close(loss(student.flip(0), teacher.flip(0)), loss(student, teacher), rtol=1e-4, atol=1e-5)
