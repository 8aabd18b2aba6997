"""The network against its published size and hand-computed attention."""

import pytest
import torch

from scripts.method.resunet import CBAM, ChannelGate, ResUNet, group_norm


def test_the_paper_network_has_its_published_number_of_parameters():
    network = ResUNet(1, 4, (32, 64, 128, 256), deep_supervision=2)
    assert sum(parameter.numel() for parameter in network.parameters()) == 9_459_478


@pytest.mark.parametrize("attention", ["channel", "cbam"])
def test_training_gives_three_resolutions_and_eval_one_tensor(attention):
    network = ResUNet(2, 3, (4, 8, 8, 16), attention=attention, deep_supervision=2)
    x = torch.randn(2, 2, 16, 24, 8)
    shapes = [tuple(logits.shape) for logits in network.train()(x)]
    assert shapes == [(2, 3, 16, 24, 8), (2, 3, 8, 12, 4), (2, 3, 4, 6, 2)]
    assert network.eval()(x).shape == (2, 3, 16, 24, 8)


def test_eval_mode_is_scriptable():
    network = ResUNet(widths=(4, 4, 8, 8), deep_supervision=1).eval()
    x = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))


def test_channel_gate_by_hand():
    gate = ChannelGate(16)
    x = torch.randn(2, 16, 3, 4, 5)
    average, maximum = x.mean((2, 3, 4)), x.amax((2, 3, 4))
    mlp = [torch.nn.functional.leaky_relu(v @ gate.fc1.weight.T + gate.fc1.bias, 0.01) for v in (average, maximum)]
    summed = sum(v @ gate.fc2.weight.T + gate.fc2.bias for v in mlp)
    torch.testing.assert_close(gate(x), x / (1 + torch.exp(-summed))[:, :, None, None, None])


def test_cbam_scales_every_channel_of_a_voxel_alike():
    cbam = CBAM(16)
    x = torch.rand(1, 16, 4, 4, 4) + 0.5
    ratio = cbam(x) / cbam[0](x)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert ratio.std() > 0


@pytest.mark.parametrize("channels, groups", [(6, 6), (8, 4), (24, 6), (32, 4), (96, 6)])
def test_groups_of_the_normalisation(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("widths", [(4, 12, 8, 20), (6, 18, 12, 30)])
def test_widths_may_be_multiples_of_4_or_of_6(widths):
    assert ResUNet(1, 4, widths).eval()(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 4, 8, 8, 8)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"widths": (8, 16)}, r"four numbers of channels, .*got \[8, 16\]"),
        ({"widths": (5, 8, 8, 8)}, r"all multiples of 4 or all of 6, got \[5, 8, 8, 8\]"),
        ({"widths": (6, 16, 32, 64)}, r"got \[6, 16, 32, 64\]"),
        ({"attention": "spatial"}, "got 'spatial'"),
        ({"deep_supervision": 3}, "got 3"),
    ],
)
def test_refused_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ResUNet(**options)
