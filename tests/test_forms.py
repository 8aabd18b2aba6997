"""Forms of distillation that the benchmarks compare: what each takes from a teacher, and what it leaves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from forms import FORMS, Batch
from side_by_side import Output, SideBySideLoss

from conftest import ROOT, TINY
from scripts.errors import UserError
from scripts.labels import REGIONS
from scripts.losses import SegmentationLoss, SoftTargetLoss
from scripts.networks import ResUNet

BENCHMARKS = ROOT / "tests" / "benchmarks"


@pytest.fixture
def batch() -> Batch:
    """Two patches, student and teachers of random logits; ``mean_*`` are teachers as well."""
    generator = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(2, 4, 4, 4, 4, generator=generator) for name in ("student", "all", "flair", "t2")}
    feature = torch.randn(2, 8, 2, 2, 2, generator=generator)
    label = torch.randint(0, 4, (2, 1, 4, 4, 4), generator=generator)
    student = logits.pop("student").requires_grad_()
    teachers = {**logits, "mean_student": logits["all"], "mean_teacher": logits["all"]}
    features = {"all": torch.randn(2, 8, 2, 2, 2, generator=generator), "projected": feature}
    dice = {name: {"all": 0.8, "flair": 0.6, "t2": 0.2} for name, _ in REGIONS}
    return Batch(student, teachers, feature, features, label, dice, {"all": 0.8, "flair": 0.6, "t2": 0.6}, 4.0)


def agreeing(batch: Batch) -> Batch:
    """The same where the student says all that its teachers say."""
    student = batch.student.detach()
    features = {"all": batch.feature, "projected": batch.feature}
    return batch._replace(student=student, teachers=dict.fromkeys(batch.teachers, student), features=features)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_least_where_the_student_agrees(name, batch):
    assert FORMS[name](agreeing(batch)).item() == pytest.approx(0, abs=1e-5)
    assert FORMS[name](batch).item() > 0.01


@pytest.mark.parametrize("name", ["whole_tumour", "three", "validation", "case", "mean_student", "mean_teacher"])
def test_forms_of_the_whole_tumour_leave_its_classes_alone(name, batch):
    gradient = torch.autograd.grad(FORMS[name](batch), batch.student)[0]
    within = torch.softmax(batch.student[:, 1:], dim=1)  # how tumour is shared among its classes
    torch.testing.assert_close(gradient[:, 1:], gradient[:, 1:].sum(1, keepdim=True) * within)


def test_standardised_logits_have_no_scale_and_no_shift(batch):
    moved = batch._replace(student=3 * batch.student + 5)
    torch.testing.assert_close(FORMS["standardised"](moved), FORMS["standardised"](batch), rtol=1e-3, atol=0)


def test_channel_wise_takes_each_class_over_the_voxels(batch):
    constant = torch.arange(4.0)[None, :, None, None, None]
    torch.testing.assert_close(FORMS["channel_wise"](batch._replace(student=batch.student + constant)),
                               FORMS["channel_wise"](batch))  # fmt: skip
    student, teacher = ((x / 4).flatten(2).softmax(2) for x in (batch.student, batch.teachers["all"]))
    expected = 16 * (teacher * (teacher / student).log()).sum(2).mean()
    torch.testing.assert_close(FORMS["channel_wise"](batch), expected)


def test_correlation_is_pearsons(batch):
    student, teacher = (x.detach().softmax(1).flatten(2) for x in (batch.student, batch.teachers["all"]))
    within = [1 - torch.corrcoef(torch.stack([s, t]))[0, 1] for a, b in zip(student, teacher) for s, t in zip(a, b)]
    between = [
        1 - torch.corrcoef(torch.stack([s, t]))[0, 1] for a, b in zip(student, teacher) for s, t in zip(a.T, b.T)
    ]
    expected = torch.stack(within).mean() + torch.stack(between).mean()
    torch.testing.assert_close(FORMS["correlation"](batch).detach(), expected, rtol=1e-3, atol=0)


def test_prototypes_compare_voxels_with_the_means_of_their_class(batch):
    label = F.interpolate(batch.label.float(), size=(2, 2, 2))[:, 0].long()
    maps = []
    for feature in (batch.feature, batch.features["all"]):
        likeness = torch.zeros(2, 2, 2, 2)
        for b, i, j, k in torch.cartesian_prod(*[torch.arange(2)] * 4).tolist():
            same = feature[b][:, label[b] == label[b, i, j, k]]
            likeness[b, i, j, k] = F.cosine_similarity(feature[b, :, i, j, k], same.mean(1), dim=0)
        maps.append(likeness)
    torch.testing.assert_close(FORMS["prototypes"](batch), (maps[0] - maps[1]).square().mean())


def test_weights_of_teachers(batch):
    """A teacher of weight 0 does not count; a case's best teacher is the one nearest to its label."""
    one = batch._replace(validated={"all": 1.0, "flair": 0.0, "t2": 0.0})
    torch.testing.assert_close(FORMS["validation"](one), FORMS["whole_tumour"](batch))
    good = 9 * torch.stack([(batch.label[:, 0] == index).float() for index in range(4)], dim=1)
    teachers = {**batch.teachers, "t2": good}
    torch.testing.assert_close(
        FORMS["case"](batch._replace(teachers=teachers)), FORMS["whole_tumour"](batch._replace(teachers={"all": good}))
    )


def test_three_teachers_count_alike_and_regions_by_their_dice(batch):
    each = [FORMS["whole_tumour"](batch._replace(teachers={"all": batch.teachers[n]})) for n in batch.validated]
    torch.testing.assert_close(FORMS["three"](batch), torch.stack(each).mean())
    dice = {"WT": {"all": 0.8, "flair": 0.6, "t2": 0.6}, "TC": {"all": 0.6, "flair": 0.3, "t2": 0.1}}
    dice["ET"] = {"all": 0.5, "flair": 0.0, "t2": 0.0}
    expected = 0.0
    for region, classes in {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}.items():
        student, *teachers = (
            (x.detach() / 4).exp() ** 4 for x in (batch.student, *(batch.teachers[name] for name in dice[region]))
        )  # proportional to the probabilities
        inside = [(x[:, classes].sum(1) / x.sum(1)).logit() / 4 for x in (student, *teachers)]
        p, *others = (torch.stack([x.sigmoid(), 1 - x.sigmoid()]) for x in inside)
        for share, q in zip(dice[region].values(), others):
            expected += share / sum(dice[region].values()) * 16 * (q * (q / p).log()).sum(0).mean() / 3
    torch.testing.assert_close(FORMS["region"](batch._replace(dice=dice)).detach(), expected)


def test_a_form_pulls_its_share_of_what_the_labels_pull(batch):
    loss = SideBySideLoss(0.5, batch.validated, segmentation=SegmentationLoss(), soft_target=SoftTargetLoss())
    labels, form = loss.labels([batch.student], batch.label), FORMS["whole_tumour"](batch)
    weight = loss.weight("whole_tumour", labels, form, batch)
    pulls = [torch.autograd.grad(x, batch.student, retain_graph=True)[0].norm() for x in (labels, weight * form)]
    assert pulls[1].item() == pytest.approx(0.5 * pulls[0].item(), rel=1e-4)
    with pytest.raises(UserError, match="resume is 'auto': .* so begin anew"):
        SideBySideLoss(0.5, {}, "auto", segmentation=SegmentationLoss(), soft_target=SoftTargetLoss())


def test_in_the_warm_up_forms_do_not_count(batch):
    loss = SideBySideLoss(0.5, {"all": 1.0}, segmentation=SegmentationLoss(), soft_target=SoftTargetLoss())
    output = Output([batch.student], batch.teachers, [], {"whole_tumour": [batch.student]}, dict(batch.features))
    output.features["whole_tumour"] = batch.feature
    for distilling in (False, True):
        loss.distilling = distilling
        loss(output, batch.label)
        assert (loss.terms["form_whole_tumour"] > 0) == distilling
        assert bool(loss.ratios) == distilling  # nor are they weighed yet
    output.students["three"] = output.students["whole_tumour"]
    with pytest.raises(UserError, match="validated is {'all': 1.0}: three wants the Dice of more teachers"):
        loss(output, batch.label)


def test_dice_of_teachers_leaves_out_what_has_nothing(batch):
    loss = SideBySideLoss(0.5, {"all": 1.0}, segmentation=SegmentationLoss(), soft_target=SoftTargetLoss())
    label = torch.zeros(2, 1, 4, 4, 4)
    label[0, 0, 0] = 2  # oedema alone, in the first patch alone
    said = torch.zeros(2, 4, 4, 4, 4)
    said[:, 0] = 1
    said[0, 2, 0, :2] = 2  # half of it
    loss.measure({"all": said}, label)
    assert loss.dice == {"WT": {"all": [pytest.approx(2 / 3)]}, "TC": {"all": []}, "ET": {"all": []}}
    with pytest.raises(UserError, match=r"validated has \['all'\]"):
        loss.measure({"flair": said}, label)


@pytest.mark.slow
def test_the_student_alone_is_that_of_a_training_without_forms(command, data_options, tmp_path, monkeypatch):
    """And each form's student ends elsewhere, the kept teachers where they were."""
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    paths = {name: tmp_path / f"{name}.pt" for name in ("start", "all", "flair", "t2")}
    torch.manual_seed(0)
    for name, path in paths.items():
        network = ResUNet(4 if name == "all" else 1, 4, [4, 4, 8, 8], deep_supervision=1)
        torch.save(network.state_dict(), path)
    options = [*TINY, *data_options, "--epochs", "2", "--val_interval", "2", "--pretrained", paths["start"]]
    options += ["--distillation_warm_up", "0", "--output_dir"]
    overlay = str(["configs/train.yaml", "../tests/benchmarks/side_by_side.yaml"])
    teachers = ["--teacher_checkpoint", paths["all"], "--flair_checkpoint", paths["flair"]]
    teachers += ["--t2_checkpoint", paths["t2"], "--loss::validated", "{'all': 0.8, 'flair': 0.6, 't2': 0.6}"]
    alone = ["--config_file", "configs/train.yaml", "--loss::student_weight", "1"]
    forms = ["--config_file", overlay, "--forms", str(list(FORMS)), *teachers]
    for name, more in {"alone": alone, "forms": forms}.items():
        result = command("monai.bundle", "run", "training", *more, *options, tmp_path / name)
        assert result.returncode == 0, result.stderr[-3000:]
    result = command("side_by_side", "--run", tmp_path / "forms", "--output_dir", tmp_path, "--fold", "0")
    assert result.returncode == 0, result.stderr[-3000:]

    def student(name):
        return torch.load(tmp_path / name / "fold_0" / "models" / "model.pt", weights_only=True)

    kept = torch.load(tmp_path / "alone" / "models" / "checkpoint.pt", weights_only=True)["distillation"]
    expected = {key.removeprefix("student."): value for key, value in kept.items()}
    torch.testing.assert_close(student("alone"), expected, rtol=0, atol=0)
    own = student("alone")["head.weight"]
    assert [name for name in (*FORMS, "mean") if torch.equal(student(name)["head.weight"], own)] == []
    after = torch.load(tmp_path / "forms" / "models" / "checkpoint.pt", weights_only=True)["distillation"]
    before = torch.load(paths["t2"], weights_only=True)
    torch.testing.assert_close({key: after[f"teachers.t2.network.{key}"] for key in before}, before, rtol=0, atol=0)
