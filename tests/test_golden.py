"""Outputs, losses, confidence and gradients against numbers computed with the authors' modules, within 1e-4.

The file is taken from the environment variable MTCM_GOLDEN, else from the shared folder beside the checkout.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SHARED
from scripts.confidence import TeacherConfidence
from scripts.distillation import DistillationNetwork, Teacher
from scripts.fusion import CooperativeFusion
from scripts.losses import DistillationLoss, SegmentationLoss, SoftTargetLoss, resize_label
from scripts.networks import ResUNet

TEACHERS = ("flair", "t2", "t1")
PATH = Path(os.environ.get("MTCM_GOLDEN") or SHARED / "golden" / "mtcm_kd_a.npz")


@pytest.fixture(scope="module")
def golden():
    if not PATH.is_file():
        if "MTCM_GOLDEN" in os.environ:
            pytest.fail(f"MTCM_GOLDEN is {PATH}, which does not exist")
        pytest.skip("the golden figures are not at hand")
    with np.load(PATH) as file:
        return {key: file[key] for key in file.files}


def state(golden, network):
    prefix = f"weights/{network}/"
    return {
        key[len(prefix) :]: torch.from_numpy(v.astype("float32")) for key, v in golden.items() if key.startswith(prefix)
    }


def unet(golden, name):
    weights = state(golden, name)
    widths = [
        weights[f"{part}.weight"].shape[0]
        for part in ("stem.conv1", "encoder1.conv1", "encoder2.conv1", "bridge.conv1")
    ]
    in_channels, classes = weights["stem.conv1.weight"].shape[1], weights["head.weight"].shape[0]
    network = ResUNet(in_channels, classes, widths, deep_supervision=2)
    network.load_state_dict(weights)
    return network


@pytest.fixture(scope="module")
def model(golden):
    weights = state(golden, "fusion")
    channels = {name: [weights[f"project_{name}.weight"].shape[1]] for name in TEACHERS}
    fusion = CooperativeFusion(channels, num_classes=weights["head.weight"].shape[0])
    names = {f"attention_{name}": f"levels.0.attention.{name}" for name in TEACHERS}
    names |= {f"project_{name}": f"levels.0.project.{name}" for name in TEACHERS} | {"head": "levels.0.head"}
    fusion.load_state_dict({names[(parts := key.split(".", 1))[0]] + "." + parts[1]: v for key, v in weights.items()})
    teachers = {name: Teacher(unet(golden, f"teacher_{name}"), [name], ["decoder2"]) for name in TEACHERS}
    return DistillationNetwork(unet(golden, "student"), teachers, fusion).train()


@pytest.fixture(scope="module")
def batch(golden):
    images = torch.from_numpy(golden["input/image_flair_t1ce_t2_t1"].astype("float32")).split(1, dim=1)
    label = torch.from_numpy(golden["input/label"].astype("int64"))[:, None]
    return dict(zip(("flair", "image", "t2", "t1"), images)), label


@pytest.fixture(scope="module")
def output(model, batch):
    with torch.no_grad():
        return model(**batch[0])


def assert_golden(value, expected):
    np.testing.assert_allclose(np.asarray(value.detach()), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_logits(golden, output):
    for name, logits in zip(("student", "student_half", "student_quarter"), output.student):
        assert_golden(logits, golden[f"output/{name}_logits"])
    for name in TEACHERS:
        assert_golden(output.teachers[name], golden[f"output/teacher_{name}_logits"])
    assert_golden(output.fused[0], golden["output/fusion_logits"])


@pytest.mark.parametrize("reduction, key", [("volume", "seg_volumetric"), ("slice", "seg_per_slice")])
def test_segmentation_losses(golden, output, batch, reduction, key):
    loss, label = SegmentationLoss(reduction), batch[1]
    logits = {"student": output.student[0], "student_half": output.student[1], "fusion": output.fused[0]}
    logits |= {f"teacher_{name}": output.teachers[name] for name in TEACHERS}
    for name, value in logits.items():
        assert_golden(loss(value, resize_label(label, value)), golden[f"loss/{key}/{name}"])


@pytest.mark.parametrize(
    "options, key",
    [
        ({"temperature": 4.0}, "kd_T4_mean"),
        ({"temperature": 20.0, "reduction": "sum", "scale": "linear"}, "kd_T20_sum"),
    ],
)
def test_soft_target_losses(golden, output, options, key):
    loss = SoftTargetLoss(**options)
    for name in TEACHERS:
        assert_golden(loss(output.student[0], output.teachers[name]), golden[f"loss/{key}/teacher_{name}"])
    assert_golden(loss(output.student[1], output.fused[0]), golden[f"loss/{key}/fusion_to_student_half"])


@pytest.mark.parametrize("score, key", [("volume", "volumetric"), ("slice_mean", "per_slice")])
def test_confidence(golden, output, batch, score, key):
    confidence = TeacherConfidence(TEACHERS, score=score)
    confidence.accumulate(output.teachers, batch[1])
    confidence.update()
    for name, dice, weight in zip(TEACHERS, confidence.dice, confidence.weights):
        assert_golden(dice, golden[f"confidence/teacher_{name}_wt_dice_{key}"])
        if score == "slice_mean":
            assert_golden(weight, golden[f"confidence/teacher_{name}_weight_from_per_slice"])


def test_totals_and_gradients_of_the_authors_definitions(golden, model, batch):
    images, label = batch
    confidence = TeacherConfidence(TEACHERS)
    weights = [float(golden[f"confidence/teacher_{name}_weight_from_per_slice"]) for name in TEACHERS]
    confidence.weights.copy_(torch.tensor(weights))
    soft_target = SoftTargetLoss(20.0, reduction="sum", scale="linear")
    loss = DistillationLoss(
        SegmentationLoss("slice"), soft_target, confidence, deep_weights=[0.10, 0.0], distilling=True
    )
    model.zero_grad()
    output = model(**images)
    total = loss(output, label)
    deep = {name: term for name, term in loss.terms.items() if name.startswith(("student", "distil"))}
    assert_golden(sum(loss.terms[name] for name in loss.terms if name not in deep), golden["loss/total/teachers"])
    assert_golden(sum(deep.values()), golden["loss/total/student_distilling"])
    total.backward()
    networks = {"student": model.student, "fusion": model.fusion}
    networks |= {f"teacher_{name}": model.teachers[name] for name in TEACHERS}
    for name, network in networks.items():
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        assert_golden(torch.stack([gradient.norm() for gradient in gradients]).norm(), golden[f"grad_norm/{name}"])
    loss.distilling = False
    assert_golden(sum(loss.student_terms(output, label).values()), golden["loss/total/student_warmup"])
