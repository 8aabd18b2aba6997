"""Features of the student beside those of teachers, and a teacher that is a moving mean."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from scripts.method.distillation import DistillationNetwork, parameter_groups
from scripts.method.resunet import ResUNet
from scripts.method.teachers import Teacher
from scripts.variants.moving_mean import MovingMeanTeacher

WIDTHS = (4, 8, 8, 16)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(**options) -> DistillationNetwork:
    torch.manual_seed(0)
    teachers = {"t2": Teacher(ResUNet(1, 4, WIDTHS), "t2", ["decoder2"])}
    return DistillationNetwork(ResUNet(1, 4, WIDTHS, deep_supervision=1), teachers, **options)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_students_features_are_what_its_layers_gave(checkpointing):
    images = {"image": normal(1, 1, 16, 16, 16), "t2": normal(1, 1, 16, 16, 16, seed=1)}
    plain = build().train()
    names, logits = list(plain.state_dict()), plain(**images).student
    projection = nn.Conv3d(8, 5, 1)
    model = build(
        student_feature_layers=["decoder2", "decoder1"], projection=projection, activation_checkpointing=checkpointing
    ).train()
    output = model(**images)
    torch.testing.assert_close(output.student, logits, rtol=0, atol=0)
    half, quarter = output.features["student"]
    assert quarter.shape == (1, 8, 4, 4, 4)
    torch.testing.assert_close(output.student[1], model.student.head_half(half))  # which sees decoder2's output
    torch.testing.assert_close(output.features["projected"], [projection(half)])
    assert list(model.state_dict()) == [*names, "projection.weight", "projection.bias"]
    learning = {id(p) for group in parameter_groups(model, {"lr": 1.0}, {"lr": 1.0}) for p in group["params"]}
    assert learning >= {id(p) for p in projection.parameters()}
    output.features["projected"][0].square().sum().backward()
    assert model.student.stem.conv1.weight.grad.abs().sum() > 0
    assert model.teachers["t2"].network.stem.conv1.weight.grad is None


def test_a_projection_of_nothing_is_rejected():
    with pytest.raises(ValueError, match="student_feature_layers"):
        build(projection=nn.Conv3d(8, 8, 1))


def test_the_mean_follows_its_network_in_training_alone():
    torch.manual_seed(0)
    student = ResUNet(1, 4, WIDTHS)
    mean = MovingMeanTeacher(student, "t1ce", decay=0.9)
    model = DistillationNetwork(student, {"mean": mean}).train()
    start = copy.deepcopy(student.state_dict())
    image = normal(1, 1, 16, 16, 16)
    expected = {name: value.double() for name, value in start.items()}
    for _ in range(3):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(1.0)
        output = model(image)
        expected = {name: 0.9 * value + 0.1 * student.state_dict()[name] for name, value in expected.items()}
    found = mean.network.state_dict()
    torch.testing.assert_close(found, {name: value.float() for name, value in expected.items()})
    model.eval()(image)
    torch.testing.assert_close(mean.network.state_dict(), found, rtol=0, atol=0)
    torch.testing.assert_close(output.teachers["mean"], mean.network(image))
    assert not (mean.network.training or output.teachers["mean"].requires_grad)


@pytest.mark.parametrize("samples", [{"label": [0]}, {"t2": []}, {"label": [0], "t2": [1]}])
def test_the_mean_follows_once_a_step_whatever_samples_lack(samples):
    """Processes have other gaps, and must keep equal means."""
    torch.manual_seed(0)
    student = ResUNet(1, 4, WIDTHS)
    mean = MovingMeanTeacher(student, ["t2"], decay=0.9)
    model = DistillationNetwork(student, {"mean": mean}, activation_checkpointing=True).train()
    start = mean.network.stem.conv1.weight.clone()
    with torch.no_grad():
        student.stem.conv1.weight.add_(1.0)
    images = {"image": normal(2, 1, 16, 16, 16), "t2": normal(2, 1, 16, 16, 16, seed=1)}
    model(**images, samples=samples).student[0].sum().backward()
    torch.testing.assert_close(mean.network.stem.conv1.weight, start + 0.1)


def test_the_followed_network_is_a_submodule_once_and_keeps_its_features():
    teacher = Teacher(ResUNet(1, 4, WIDTHS), "t2", ["decoder2"])
    mean = MovingMeanTeacher(teacher.network, "t2", ["decoder2"])
    model = DistillationNetwork(ResUNet(1, 4, WIDTHS), {"mean": mean, "t2": teacher}).train()
    parts = len(list(teacher.network.parameters()))
    assert len(list(model.parameters())) == 3 * parts == len(model.state_dict())
    learning = [p for group in parameter_groups(model, {"lr": 1.0}, {"lr": 1.0}) for p in group["params"]]
    assert len(learning) == 2 * parts
    with torch.no_grad():
        teacher.network.decoder2.conv2.weight.add_(1.0)  # so that the two differ
    features = model(normal(1, 1, 16, 16, 16), t2=normal(1, 1, 16, 16, 16, seed=1)).features
    assert features["t2"][0].requires_grad and not features["mean"][0].requires_grad
    assert not torch.allclose(features["t2"][0], features["mean"][0])
    with pytest.raises(ValueError, match="decay"):
        MovingMeanTeacher(teacher.network, "t2", decay=1.0)


def test_the_mean_has_the_buffers_of_its_network():
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4)).train()
    mean = MovingMeanTeacher(network, "t1ce")
    network(normal(2, 1, 4, 4, 4) + 5)
    assert not torch.equal(mean.network[1].running_mean, network[1].running_mean)
    mean.follow()
    torch.testing.assert_close(mean.network[1].running_mean, network[1].running_mean, rtol=0, atol=0)
