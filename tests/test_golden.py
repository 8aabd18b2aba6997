"""Outputs, losses, confidence and gradients against numbers computed with the authors' modules, within 1e-4.

tests/golden/small.npz is for everyone: it holds losses of the authors', and networks of half their widths that
tests/golden/make.py cut out of the large file. The large file, whose every number is the authors', is read from the
environment variable MTCM_GOLDEN, else from the shared folder beside the checkout.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SHARED, paper_terms
from scripts.method.confidence import TeacherConfidence
from scripts.method.distillation import DistillationNetwork
from scripts.method.fusion import CooperativeFusion
from scripts.method.losses import SegmentationLoss, SoftTargetLoss, resize_label
from scripts.method.resunet import ResUNet
from scripts.method.teachers import Teacher
from scripts.method.terms import DistillationLoss

SMALL = Path(__file__).parent / "golden" / "small.npz"
LARGE = Path(os.environ.get("MTCM_GOLDEN") or SHARED / "golden" / "mtcm_kd_a.npz")
TEACHERS = ("flair", "t2", "t1")
SEGMENTATION = {"seg_volumetric": SegmentationLoss(), "seg_per_slice": SegmentationLoss("slice", smooth_absent=0)}
SOFT_TARGET = {
    "kd_T4_mean": SoftTargetLoss(4.0),
    "kd_T20_sum": SoftTargetLoss(20.0, reduction="sum", scale="linear"),
}


def read(path):
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def state(golden, network):
    prefix = f"weights/{network}/"
    named = {key[len(prefix) :]: value for key, value in golden.items() if key.startswith(prefix)}
    return {name: torch.from_numpy(value.astype("float32")) for name, value in named.items()}


def unet(golden, name):
    weights = state(golden, name)
    layers = ("stem.conv1", "encoder1.conv1", "encoder2.conv1", "bridge.conv1")
    widths = [weights[f"{layer}.weight"].shape[0] for layer in layers]
    network = ResUNet(1, weights["head.weight"].shape[0], widths, deep_supervision=2)
    network.load_state_dict(weights)
    return network


def networks(golden):
    """Student, teachers and fusion with the file's weights."""
    weights = state(golden, "fusion")
    channels = {name: [weights[f"project_{name}.weight"].shape[1]] for name in TEACHERS}
    fusion = CooperativeFusion(channels, num_classes=weights["head.weight"].shape[0])
    names = {f"attention_{name}": f"levels.0.attention.{name}" for name in TEACHERS}
    names |= {f"project_{name}": f"levels.0.project.{name}" for name in TEACHERS} | {"head": "levels.0.head"}
    fusion.load_state_dict({names[(parts := key.split(".", 1))[0]] + "." + parts[1]: v for key, v in weights.items()})
    teachers = {name: Teacher(unet(golden, f"teacher_{name}"), [name], ["decoder2"]) for name in TEACHERS}
    return DistillationNetwork(unet(golden, "student"), teachers, fusion).train()


def losses(logits, label):
    """Every loss of these logits by name: seg of each, kd to each teacher, kd of the half-size head to the fusion."""
    figures = {}
    for key, loss in SEGMENTATION.items():
        for name, value in logits.items():
            figures[f"loss/{key}/{name}"] = loss(value, resize_label(label, value))
    for key, loss in SOFT_TARGET.items():
        for name in (name for name in logits if name.startswith("teacher_")):
            figures[f"loss/{key}/{name}"] = loss(logits["student"], logits[name])
        figures[f"loss/{key}/fusion_to_student_half"] = loss(logits["student_half"], logits["fusion"])
    return figures


def confidences(teachers, label):
    figures = {}
    for score, key in (("volume", "volumetric"), ("slice_mean", "per_slice")):
        confidence = TeacherConfidence(TEACHERS, score=score)
        confidence.accumulate(teachers, label)
        confidence.update()
        for name, dice, weight in zip(TEACHERS, confidence.dice, confidence.weights):
            figures[f"confidence/teacher_{name}_wt_dice_{key}"] = dice
            if score == "slice_mean":
                figures[f"confidence/teacher_{name}_weight_from_per_slice"] = weight
    return figures


def totals(model, output, label, figures):
    """The authors' two sums with their definitions, warm-up and gradients included."""
    confidence = TeacherConfidence(TEACHERS)
    weights = [figures[f"confidence/teacher_{name}_weight_from_per_slice"] for name in TEACHERS]
    confidence.weights.copy_(torch.stack(weights))
    terms = paper_terms(SEGMENTATION["seg_per_slice"], SOFT_TARGET["kd_T20_sum"], confidence)
    loss = DistillationLoss(terms, distilling=True)
    output = output._replace(student=output.student[:2])  # one level of deep supervision
    loss(output, label).backward()
    of_teachers = [name for name in loss.values if name.startswith(("teacher", "fusion"))]
    found = {"loss/total/teachers": sum(loss.values[name] for name in of_teachers)}
    found["loss/total/student_distilling"] = sum(v for name, v in loss.values.items() if name not in of_teachers)
    loss.distilling = False
    loss(output, label)
    found["loss/total/student_warmup"] = sum(v for name, v in loss.values.items() if name not in of_teachers)
    parts = {"student": model.student, "fusion": model.fusion}
    for name, part in (parts | {f"teacher_{name}": model.teachers[name] for name in TEACHERS}).items():
        norms = [parameter.grad.norm() for parameter in part.parameters() if parameter.grad is not None]
        found[f"grad_norm/{name}"] = torch.stack(norms).norm()
    return found


def compute(golden):
    """Every figure of a golden file, computed with this project's modules from its weights and inputs."""
    images = torch.from_numpy(golden["input/image_flair_t1ce_t2_t1"].astype("float32")).split(1, dim=1)
    label = torch.from_numpy(golden["input/label"].astype("int64"))[:, None]
    model = networks(golden)
    output = model(**dict(zip(("flair", "image", "t2", "t1"), images)))
    logits = dict(zip(("student", "student_half"), output.student)) | {"fusion": output.fused[0]}
    logits |= {f"teacher_{name}": output.teachers[name] for name in TEACHERS}
    figures = {f"output/{name}_logits": value for name, value in logits.items()}
    figures["output/student_quarter_logits"] = output.student[2]
    figures |= losses(logits, label) | confidences(output.teachers, label)
    figures |= totals(model, output, label, figures)
    return {key: np.asarray(value.detach()) for key, value in figures.items()}


@pytest.mark.parametrize("path", [SMALL, LARGE], ids=["small", "large"])
def test_every_figure_is_the_files(path):
    if not path.is_file():
        if path == SMALL or "MTCM_GOLDEN" in os.environ:
            pytest.fail(f"{path} does not exist")
        pytest.skip("the large golden file is not at hand")
    golden = read(path)
    expected = {key: value for key, value in golden.items() if key.split("/")[0] not in ("weights", "input", "authors")}
    found = compute(golden)
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4 * np.abs(value).max(), err_msg=key)


def test_losses_of_small_logits_are_the_authors():
    golden = read(SMALL)
    logits = {name: torch.from_numpy(golden[f"authors/output/{name}_logits"]) for name in ("student_half", "fusion")}
    label = torch.from_numpy(golden["authors/input/label"].astype("int64"))[:, None]
    found = losses(logits, label)
    assert len(found) == 6
    for key, value in found.items():
        np.testing.assert_allclose(value, golden[f"authors/{key}"], rtol=1e-4, err_msg=key)
