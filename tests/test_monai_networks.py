"""MONAI's networks that take 3-D input and give logits work as student and as teacher."""

import importlib.util

import pytest
import torch
from monai.networks import nets

from conftest import paper_terms
from scripts.errors import UserError
from scripts.inference.inferer import VolumeInferer
from scripts.method.confidence import TeacherConfidence
from scripts.method.distillation import DistillationNetwork, parameter_groups
from scripts.method.losses import SegmentationLoss, SoftTargetLoss
from scripts.method.teachers import Teacher
from scripts.method.terms import DistillationLoss
from scripts.settings.preflight import check_networks
from scripts.variants.regions import ClassesFromRegions

CHANNELS = {"in_channels": 1, "out_channels": 4}
SOLID = {"spatial_dims": 3, **CHANNELS}
SIX = {**SOLID, "features": (4, 4, 4, 4, 4, 4)}
DS = {**CHANNELS, "init_filters": 8, "blocks_down": [1, 1], "dsdepth": 2}
DYN = {**SOLID, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 4, 4]}
SWIN = {**CHANNELS, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 2}
VIT = {"feature_size": 4, "hidden_size": 12, "mlp_dim": 12, "num_heads": 2}
RATIOS = {f"{part}_expansion_ratio": 1 for part in ("encoder", "decoder", "bottleneck")}
NEXT = {"blocks_down": (1, 1), "blocks_up": (1, 1), "blocks_bottleneck": 1, "init_filters": 4, **RATIOS}
FLEXIBLE = {**SOLID, "backbone": "resnet10", "pretrained": False, "decoder_channels": (8, 8, 8, 8, 8)}
NETWORKS = {  # class, options, smallest patch
    "UNet": (nets.UNet, {**SOLID, "channels": (4, 8), "strides": (2,)}, 16),
    "BasicUNet": (nets.BasicUNet, SIX, 32),
    "BasicUNetPlusPlus": (nets.BasicUNetPlusPlus, SIX, 32),
    "AttentionUnet": (nets.AttentionUnet, {**SOLID, "channels": (4, 8), "strides": (2,)}, 16),
    "VNet": (nets.VNet, SOLID, 16),
    "SegResNet": (nets.SegResNet, {**CHANNELS, "init_filters": 8}, 16),
    "SegResNetDS": (nets.SegResNetDS, DS, 16),
    "DynUNet": (nets.DynUNet, DYN, 16),
    "DynUNet, deep": (nets.DynUNet, {**DYN, "deep_supervision": True, "deep_supr_num": 1}, 16),
    "SwinUNETR": (nets.SwinUNETR, SWIN, 64),
    "UNETR": (nets.UNETR, {**CHANNELS, **VIT, "img_size": (16, 16, 16)}, 16),
    "FlexibleUNet": (nets.FlexibleUNet, FLEXIBLE, 32),
    "HighResNet": (nets.HighResNet, SOLID, 8),
    "RegUNet": (nets.RegUNet, {**SOLID, "num_channel_initial": 2, "depth": 1}, 16),
    "MedNeXt": (nets.MedNeXt, {**SOLID, **NEXT}, 16),
    "regions": (
        lambda **o: ClassesFromRegions(nets.SegResNet(**o)),
        {**CHANNELS, "out_channels": 3, "init_filters": 8},
        16,
    ),
    "AutoEncoder": (nets.AutoEncoder, {**SOLID, "channels": (4, 8), "strides": (2, 2)}, 16),
}
NEED_EINOPS = ("SwinUNETR", "UNETR")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_monais_learns_as_student_and_as_teacher(name):
    if name in NEED_EINOPS and importlib.util.find_spec("einops") is None:
        pytest.skip("needs einops, which is not installed")
    make, options, size = NETWORKS[name]
    patch = (size, size // 2, size // 2) if name == "SwinUNETR" else (size, size, size)
    torch.manual_seed(0)
    model = DistillationNetwork(make(**options), {"flair": Teacher(make(**options), "flair")}).train()
    check_networks(model, patch)
    optimizer = torch.optim.SGD(parameter_groups(model, {"lr": 0.01}, {"lr": 0.01}))
    terms = paper_terms(SegmentationLoss(), SoftTargetLoss(), TeacherConfidence(["flair"]))
    loss = DistillationLoss(terms, distilling=True)
    before = [{n: p.clone() for n, p in net.named_parameters()} for net in (model.student, model.teachers)]
    label = torch.randint(0, 4, (2, 1, *patch))
    loss(model(torch.randn(2, 1, *patch), flair=torch.randn(2, 1, *patch)), label).backward()
    optimizer.step()
    for earlier, network in zip(before, (model.student, model.teachers)):
        changed = [not torch.equal(earlier[n], p) for n, p in network.named_parameters()]
        assert sum(changed) > len(changed) / 2
        assert all(torch.isfinite(p).all() for p in network.parameters())
    assert {"teacher_flair", "student", "distil_flair"} <= set(loss.values)
    volume = torch.randn(1, 1, *patch)
    student = model.student.eval()
    with torch.no_grad():
        predicted = VolumeInferer(roi_size=patch)(volume, student)
        logits = student(volume)
    torch.testing.assert_close(predicted, logits if isinstance(logits, torch.Tensor) else logits[0])


@pytest.mark.parametrize(
    "network, reason",
    [
        (lambda: nets.SegResNetVAE([16, 16, 16], **CHANNELS, init_filters=8), "outputs of 5 axes, 0 axes"),
        (lambda: nets.ResNet("basic", [1, 1, 1, 1], [4, 4, 4, 4], n_input_channels=1), "shape"),
    ],
)
def test_a_network_that_gives_more_than_logits_is_named_before_training(network, reason):
    with pytest.raises(UserError, match=f"network_def .* patches of t1ce.*{reason}"):
        check_networks(DistillationNetwork(network(), {}), [16, 16, 16])


def test_the_check_leaves_weights_as_they_are():
    """DynUNet registers its parameters under two names: they stayed without values."""
    torch.manual_seed(0)
    network = nets.DynUNet(**DYN)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_networks(DistillationNetwork(network, {"t2": Teacher(nets.DynUNet(**DYN), "t2")}), [16, 16, 16])
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
