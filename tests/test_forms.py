"""Other forms of distillation: each against numpy or scipy, and each trained by YAML alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from scipy.special import expit, log_softmax, logit, rel_entr, softmax
from torch import nn

from conftest import BUNDLE
from scripts.method.distillation import DistillationOutput
from scripts.method.losses import SoftTargetLoss
from scripts.variants.forms import (
    BestTeacherResponse,
    ChannelWiseLoss,
    CorrelationLoss,
    FeatureLoss,
    PrototypeLoss,
    RegionLoss,
    StandardisedLoss,
)

RESPONSES = [StandardisedLoss, ChannelWiseLoss, CorrelationLoss, RegionLoss]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Of a student and a teacher."""
    return normal(2, 4, 4, 4, 4), normal(2, 4, 4, 4, 4, seed=1)


@pytest.fixture
def output() -> DistillationOutput:
    """Two patches, two teachers, features of 8 channels of the student and of 6 projected ones."""
    teachers = {"flair": normal(2, 4, 4, 4, 4, seed=1), "t2": normal(2, 4, 4, 4, 4, seed=2)}
    features = {
        "flair": [normal(2, 6, 2, 2, 2, seed=3)], "t2": [normal(2, 6, 2, 2, 2, seed=4)],
        "student": [normal(2, 8, 2, 2, 2, seed=5).requires_grad_()],
        "projected": [normal(2, 6, 2, 2, 2, seed=6).requires_grad_()],
    }  # fmt: skip
    return DistillationOutput([normal(2, 4, 4, 4, 4).requires_grad_()], teachers, [], features)


@pytest.fixture
def label() -> torch.Tensor:
    return torch.randint(0, 4, (2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(7))


def divergence(student: np.ndarray, teacher: np.ndarray, axis: int) -> np.ndarray:
    """KL of distributions along an axis, by scipy."""
    return rel_entr(softmax(teacher, axis), softmax(student, axis)).sum(axis)


# ---- responses: what may stand for soft_target


@pytest.mark.parametrize("form", RESPONSES)
def test_a_response_is_least_where_the_student_agrees_and_trains_the_student_alone(form, logits):
    student, teacher = (x.clone().requires_grad_() for x in logits)
    form()(student, teacher).backward()
    assert student.grad.abs().max() > 1e-4 and teacher.grad is None
    assert form()(teacher, teacher).item() == pytest.approx(0, abs=1e-5)
    assert form()(student, teacher).item() > 0.01


@pytest.mark.parametrize("form", RESPONSES)
def test_a_response_rejects_what_it_cannot_compare(form, logits):
    with pytest.raises(ValueError, match="temperature"):
        form(temperature=0)
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 4, 4\).*\(1, 4, 4, 4, 4\)"):
        form()(logits[0], logits[1][:1])


def test_standardised_logits_are_those_of_numpy(logits):
    student, teacher = ((x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) for x in map(np.array, logits))
    expected = 9 * divergence(student / 3, teacher / 3, axis=1).mean()
    assert StandardisedLoss(3.0)(*logits).item() == pytest.approx(expected, rel=1e-4)
    moved = StandardisedLoss(3.0)(3 * logits[0] + 5, logits[1])  # neither scale nor shift counts
    assert moved.item() == pytest.approx(expected, rel=1e-4)


def test_channel_wise_takes_each_class_over_the_voxels(logits):
    student, teacher = (np.array(x).reshape(2, 4, -1) for x in logits)
    expected = 9 * divergence(student / 3, teacher / 3, axis=2).mean()
    assert ChannelWiseLoss(3.0)(*logits).item() == pytest.approx(expected, rel=1e-4)


def test_correlation_is_pearsons(logits):
    student, teacher = (softmax(np.array(x) / 2, axis=1).reshape(2, 4, -1) for x in logits)
    pairs = list(zip(student, teacher))
    within = [1 - np.corrcoef(s, t)[0, 1] for a, b in pairs for s, t in zip(a, b)]
    between = [1 - np.corrcoef(s, t)[0, 1] for a, b in pairs for s, t in zip(a.T, b.T)]
    expected = 4 * (0.5 * np.mean(between) + 2 * np.mean(within))
    assert CorrelationLoss(2.0, between=0.5, within=2.0)(*logits).item() == pytest.approx(expected, rel=1e-4)


def test_regions_are_compared_with_the_rest(logits):
    expected = 0.0
    for classes in ([1, 2, 3], [1, 3], [3]):
        inside = [softmax(np.array(x), axis=1)[:, classes].sum(1) for x in logits]
        p, q = (np.stack([expit(logit(x) / 3), 1 - expit(logit(x) / 3)]) for x in inside)
        expected += 9 * rel_entr(q, p).sum(0).mean() / 3
    assert RegionLoss(3.0)(*logits).item() == pytest.approx(expected, rel=1e-4)


# ---- terms


def test_each_patch_has_its_best_teacher(output, label):
    truth, chosen = np.array(label[:, 0]) > 0, []
    for patch in range(2):
        errors = {}
        for name, teacher in output.teachers.items():
            log_p = log_softmax(np.array(teacher[patch]), axis=0)
            tumour = np.log(np.exp(log_p[1:]).sum(0))
            errors[name] = -np.where(truth[patch], tumour, log_p[0]).mean()
        chosen.append(output.teachers[min(errors, key=errors.get)][patch])
    soft_target = SoftTargetLoss(4.0)
    value = BestTeacherResponse(soft_target)(output, label)
    torch.testing.assert_close(value, soft_target(output.student[0], torch.stack(chosen)))
    good = 9 * nn.functional.one_hot(label[:, 0], 4).movedim(-1, 1).float()
    value = BestTeacherResponse(soft_target)(output._replace(teachers={**output.teachers, "good": good}), label)
    torch.testing.assert_close(value, soft_target(output.student[0], good))


def test_features_are_compared_by_cosine(output, label):
    a, b = (np.array(output.features[name][0].detach()) for name in ("projected", "t2"))
    cosine = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    value = FeatureLoss("t2")(output, label)
    assert value.item() == pytest.approx(1 - cosine.mean(), rel=1e-5)
    value.backward()
    assert output.features["projected"][0].grad.abs().sum() > 0


def test_prototypes_compare_voxels_with_the_means_of_their_class(output, label):
    small, maps = np.array(label[:, 0, ::2, ::2, ::2]), []
    for name in ("student", "flair"):
        features, found = np.array(output.features[name][0].detach()), np.zeros((2, 2, 2, 2))
        for b, i, j, k in np.ndindex(found.shape):
            mean = features[b][:, small[b] == small[b, i, j, k]].mean(1)
            own = features[b, :, i, j, k]
            found[b, i, j, k] = own @ mean / np.sqrt((own @ own) * (mean @ mean))
        maps.append(found)
    value = PrototypeLoss("flair")(output, label)
    assert value.item() == pytest.approx(((maps[0] - maps[1]) ** 2).mean(), rel=1e-4)
    value.backward()
    assert output.features["student"][0].grad.abs().sum() > 0


def test_a_term_without_its_teacher_finds_nothing_and_without_features_says_so(output, label):
    for term in (FeatureLoss("t9"), PrototypeLoss("t9")):
        assert term(output, label) == {}
    assert BestTeacherResponse(SoftTargetLoss())(output._replace(teachers={}), label) == {}
    for term, name, key in (
        (FeatureLoss("t2"), "projected", "distillation::projection"),
        (PrototypeLoss("t2"), "student", "distillation::student_feature_layers"),
        (PrototypeLoss("t2"), "t2", "teachers::t2::feature_layers"),
    ):
        without = {one: found for one, found in output.features.items() if one != name}
        with pytest.raises(ValueError, match=key):
            term(output._replace(features=without), label)
    wide = {**output.features, "projected": output.features["student"]}
    with pytest.raises(ValueError, match="out_channels"):
        FeatureLoss("t2")(output._replace(features=wide), label)


# ---- by YAML alone

FORMS = "scripts.variants.forms"
BY_YAML = {
    "standardised": f"soft_target: {{_target_: {FORMS}.StandardisedLoss, temperature: 2.0}}",
    "channel_wise": f"soft_target: {{_target_: {FORMS}.ChannelWiseLoss, temperature: 4.0}}",
    "correlation": f"soft_target: {{_target_: {FORMS}.CorrelationLoss}}",
    "region": f"soft_target: {{_target_: {FORMS}.RegionLoss}}",
    "best": f"""
loss::terms::best:
  _target_: {FORMS}.BestTeacherResponse
  soft_target: {{_target_: scripts.method.losses.SoftTargetLoss, whole_tumour: true}}
""",
    "features": f"""
loss::terms::features: {{_target_: {FORMS}.FeatureLoss, teacher: t2, weight: 0.5}}
distillation::student_feature_layers: [decoder2]
distillation::projection: {{_target_: torch.nn.Conv3d, in_channels: 4, out_channels: 8, kernel_size: 1}}
""",
    "prototypes": f"""
loss::terms::prototypes: {{_target_: {FORMS}.PrototypeLoss, teacher: flair, weight: 0.5}}
distillation::student_feature_layers: [decoder2]
""",
    "mean_student": """
teachers::own:
  _target_: scripts.variants.moving_mean.MovingMeanTeacher
  network: "@network_def"
  sequences: "@student_sequence"
""",
    "mean_teacher": """
teachers::mean:
  _target_: scripts.variants.moving_mean.MovingMeanTeacher
  network: "@teachers::t2::network"
  sequences: t2
""",
}
SMALL = {
    "bundle_root": str(BUNDLE), "spacing": None, "roi_size": [16, 16, 16], "student_widths": [4, 4, 8, 8],
    "teachers::flair::network::widths": [4, 8, 8, 8], "cache": "none", "num_workers": 0, "amp": False,
}  # fmt: skip


@pytest.mark.parametrize("name", BY_YAML)
def test_a_form_trains_by_yaml_alone(name, cohort_source, tmp_path):
    overlay = tmp_path / "form.yaml"
    overlay.write_text(BY_YAML[name])
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / "train.yaml"), str(overlay)])
    data = {"dataset_dir": str(cohort_source / "data"), "datalist": str(cohort_source / "datalist.json")}
    parser.update({**SMALL, **data, "output_dir": str(tmp_path)})
    torch.manual_seed(0)
    trainer = parser.get_parsed_content("train::trainer")
    loss, networks = (parser.get_parsed_content(key) for key in ("loss", "distillation"))
    loss.distilling = True
    learning = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    before = {key: value.clone() for key, value in networks.named_parameters()}
    batch = next(iter(trainer.data_loader))
    first = trainer._iteration(trainer, batch)["loss"]
    assert torch.isfinite(first)
    expected = {
        "best": {"best"}, "features": {"features"}, "prototypes": {"prototypes"},
        "mean_student": {"distil_own"}, "mean_teacher": {"distil_mean"},
    }.get(name, {"distil_flair", "distil_t2", "distil_t1"})  # fmt: skip
    assert expected <= set(loss.values)
    for key, value in networks.named_parameters():
        assert torch.equal(value, before[key]) == (id(value) not in learning), key
    if name.startswith("mean"):  # they were equal in the first step
        trainer._iteration(trainer, batch)
        mean = f"teachers.{expected.pop().removeprefix('distil_')}.network.head.weight"
        assert not torch.equal(dict(networks.named_parameters())[mean], before[mean])
