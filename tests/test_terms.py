"""The sum of the paper's terms, against its equation written out."""

import pytest
import torch
import torch.nn.functional as F

from conftest import paper_terms
from scripts.errors import UserError
from scripts.method.confidence import TeacherConfidence
from scripts.method.distillation import DistillationOutput
from scripts.method.losses import SegmentationLoss, SoftTargetLoss
from scripts.method.terms import DistillationLoss, FusedResponse, FusionLabels, StudentLabels, TeacherResponses, Term
from scripts.variants.pseudo_labels import OneTeacherResponse


def output(seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)

    def logits(size):
        return torch.randn(2, 4, size, size, size, generator=generator, requires_grad=grad)

    return DistillationOutput([logits(8), logits(4)], {"flair": logits(8), "t2": logits(8)}, [logits(4)])


def paper_loss(weights=(0.05, 0.1), distilling=True):
    confidence = TeacherConfidence(["flair", "t2"])
    confidence.weights.copy_(torch.tensor(weights))
    return DistillationLoss(paper_terms(SegmentationLoss(), SoftTargetLoss(), confidence), distilling)


@pytest.fixture
def label():
    return torch.randint(0, 4, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(5))


def test_the_terms_add_up_to_the_published_sum(label):
    out, loss, seg, kd = output(), paper_loss(), SegmentationLoss(), SoftTargetLoss()
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
    assert list(loss.values) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(loss.values[name], value.detach(), msg=name)
    torch.testing.assert_close(total, sum(expected.values()))


def test_one_backward_pass_equals_the_two_of_the_authors(label):
    once, twice = output(), output()
    paper_loss()(once, label).backward()
    without_heads = twice._replace(student=twice.student[:1])
    for given, names in (
        (without_heads, ("teacher", "fusion_1")),
        (twice, ("student", "distil", "student_deep_1", "distil_fusion_1")),
    ):
        loss = paper_loss()
        DistillationLoss({name: loss.terms[name] for name in names}, True)(given, label).backward()
    for a, b in [*zip(once.student, twice.student), *zip(once.teachers.values(), twice.teachers.values())]:
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(once.fused[0].grad, twice.fused[0].grad)


def test_in_the_warm_up_the_student_learns_from_labels_alone(label):
    out, loss = output(), paper_loss(distilling=False)
    total = loss(out, label)
    teachers = sum(SegmentationLoss()(logits, label) for logits in out.teachers.values())
    fused = 0.08 * SegmentationLoss()(out.fused[0], label[..., ::2, ::2, ::2])
    torch.testing.assert_close(total, SegmentationLoss()(out.student[0], label) + teachers + fused)
    total.backward()
    assert out.student[1].grad.abs().sum() == 0  # a gradient of 0, not none: DistributedDataParallel needs it


def test_without_teachers_only_labels_remain(label):
    loss = paper_loss()
    loss(DistillationOutput(output().student, {}, []), label)
    assert set(loss.values) == {"student", "student_deep_1"}


def test_a_frozen_teacher_has_no_loss_of_its_own(label):
    out, loss = output(), paper_loss()
    out.teachers["flair"] = out.teachers["flair"].detach()
    loss(out, label)
    assert "teacher_flair" not in loss.values
    assert loss.values["distil_flair"] > 0


def test_a_student_without_deep_heads_meets_the_fusion_with_its_own_logits(label):
    out, loss = output(), paper_loss()
    loss(out._replace(student=out.student[:1]), label)
    own = F.avg_pool3d(out.student[0], 2)  # trilinear halving of an even grid is the mean of each 2³ block
    torch.testing.assert_close(loss.values["distil_fusion_1"], 0.03 * SoftTargetLoss()(own, out.fused[0]).detach())


def test_an_output_that_no_term_uses_is_an_error_that_names_it(label):
    out = output()
    with pytest.raises(ValueError, match=r"student .* level 1"):
        DistillationLoss({"student": StudentLabels(SegmentationLoss(), 1.0)})(out._replace(fused=[]), label)


def test_a_level_of_the_fusion_is_none_of_the_student(label):
    """Heads that no term uses would get no gradient, which DDP waits for."""
    terms = {"student": StudentLabels(SegmentationLoss(), 1.0), "fusion_1": FusionLabels(SegmentationLoss(), 1.0)}
    with pytest.raises(ValueError, match=r"student .* level 1"):
        DistillationLoss(terms)(output(), label)
    DistillationLoss(terms | {"deep": StudentLabels(SegmentationLoss(), 1.0, level=1)})(output(), label)


def test_two_values_of_one_name_are_an_error(label):
    """One would be lost from the loss."""
    confidence = TeacherConfidence(["flair"])
    terms = {"distil": TeacherResponses(SoftTargetLoss(), confidence)}
    terms |= {"distil_flair": StudentLabels(SegmentationLoss(), 1.0)}
    out = output()
    given = out._replace(student=out.student[:1], fused=[], teachers={"flair": out.student[0].detach()})
    with pytest.raises(UserError, match=r"distil_flair .*gives a value named distil_flair.*rename"):
        DistillationLoss(terms, True)(given, label)


def test_a_level_between_two_others_needs_a_term_as_well(label):
    out = output()
    student = [*out.student, F.avg_pool3d(out.student[-1], 2)]
    terms = {f"deep_{level}": StudentLabels(SegmentationLoss(), 1.0, level=level) for level in (0, 2)}
    with pytest.raises(ValueError, match=r"student .* level 1"):
        DistillationLoss(terms)(out._replace(student=student, fused=[]), label)


def test_a_term_of_ones_own_is_weighted_and_logged_by_name(label):
    class Confident(Term):
        def forward(self, output, label):
            return output.student[0].softmax(1).amax(1).mean()

    out = output()
    loss = DistillationLoss(
        {"student": StudentLabels(SegmentationLoss(), 1.0, warm_up_weight=1.0), "mine": Confident(0.5)}
    )
    out = out._replace(student=out.student[:1], fused=[])
    before = loss(out, label)
    assert loss.values["mine"] == 0
    loss.distilling = True
    expected = 0.5 * out.student[0].softmax(1).amax(1).mean()
    torch.testing.assert_close(loss(out, label) - before, expected)
    torch.testing.assert_close(loss.values["mine"], expected.detach())


def test_a_term_that_is_none_is_named_with_its_class():
    for wrong in (torch.nn.L1Loss(), {"weight": 1.0}, "DiceLoss", 0.5):
        with pytest.raises(
            UserError, match=rf"loss::terms::mine is a .*{type(wrong).__name__}.*scripts\.method\.terms\.Term"
        ):
            DistillationLoss({"mine": wrong})


def test_a_term_for_patients_that_do_not_exist_is_named():
    class Misspelt(Term):
        patients = "unlabeled"

    with pytest.raises(ValueError, match="Misspelt.patients is 'unlabeled', expected one of"):
        Misspelt()


@pytest.mark.parametrize(
    "given, words",
    [
        (lambda: torch.ones(2), r"gives a tensor \(2,\), expected a scalar tensor, or a mapping"),
        (lambda: 0.5, r"gives 0\.5, expected a scalar tensor"),
        (lambda: None, "gives None, expected a scalar tensor"),
        (lambda: {"flair": torch.ones(2)}, r"gives a tensor \(2,\)"),
        (lambda: torch.ones(2) @ torch.ones(3), r"fails with RuntimeError: .*size.*, in line \d+ of .*test_terms\.py"),
        (lambda: {}["flair"], r"fails with KeyError: 'flair', in line \d+ of .*test_terms\.py"),
    ],
)
def test_a_term_that_fails_or_gives_no_scalar_is_named(given, words, label):
    class Mine(Term):
        def forward(self, output, label):
            return given()

    out = output()._replace(fused=[])
    with pytest.raises(UserError, match=r"^loss::terms::mine \(test_terms\..*Mine\) " + words):
        DistillationLoss({"mine": Mine(), "deep": StudentLabels(SegmentationLoss(), 1.0, level=1)})(out, label)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("DataLoader worker (pid 1) is killed")])
def test_what_is_no_fault_of_a_term_stays_as_it_is(error, label):
    class Mine(Term):
        def forward(self, output, label):
            raise error

    out = output()._replace(fused=[])
    with pytest.raises(type(error)) as raised:
        DistillationLoss({"mine": Mine(), "deep": StudentLabels(SegmentationLoss(), 1.0, level=1)})(out, label)
    assert raised.value is error


def test_a_distance_of_a_library_trains_neither_teachers_nor_fusion(label):
    confidence = TeacherConfidence(["flair", "t2"])
    distance = torch.nn.MSELoss()
    terms = {
        "distil": TeacherResponses(distance, confidence),
        "fused": FusedResponse(distance, 1.0),
        "one": OneTeacherResponse(distance, "t2"),
    }
    out = output()
    DistillationLoss(terms, distilling=True)(out._replace(student=out.student[:1]), label).backward()
    assert out.student[0].grad.abs().sum() > 0
    assert all(logits.grad is None for logits in [*out.teachers.values(), *out.fused])


def test_responses_without_confidence_say_what_to_do():
    with pytest.raises(UserError, match="set loss::terms::distil: null, or use OneTeacherResponse"):
        TeacherResponses(SoftTargetLoss(), None)
