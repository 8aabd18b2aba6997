"""Norms and channel gates with channels last on a CPU give the values and gradients of PyTorch's own functions."""

import copy

import pytest
import torch
from torch import nn

from scripts.device import lay_channels_last
from scripts.method.channels_last import GroupNorm, InstanceNorm, last_on_cpu
from scripts.method.resunet import ChannelGate, ResUNet


def of(module: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    """Output of a module and the gradients of its input and parameters."""
    x = x.detach().requires_grad_()
    y = module(x)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])]


@pytest.mark.parametrize("module", [GroupNorm(4, 12), GroupNorm(6, 24), InstanceNorm(12), ChannelGate(16)])
def test_values_and_gradients_are_those_of_the_other_layout(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    channels = getattr(module, "num_channels", getattr(module, "num_features", 16))
    x = 3 + torch.randn(2, channels, 4, 6, 8)
    x[:, 0] = 1  # a channel whose maxima are all equal
    last = x.contiguous(memory_format=torch.channels_last_3d)
    assert last_on_cpu(last.clone().requires_grad_()) and not last_on_cpu(x.clone().requires_grad_())
    found, expected = (of(module, value, torch.linspace(-1, 2, x.numel()).view(x.shape)) for value in (last, x))
    assert found[0].is_contiguous(memory_format=torch.channels_last_3d)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-4 * float(other.abs().max()))


def test_bfloat16_gives_the_values_and_gradients_of_float32_but_for_rounding():
    torch.manual_seed(0)
    norm = GroupNorm(4, 12)
    half = (3 + torch.randn(2, 12, 4, 6, 8)).to(torch.bfloat16)
    weights = torch.randn(half.shape)
    found = of(norm, half.contiguous(memory_format=torch.channels_last_3d), weights)
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    for one, other in zip(found, of(norm, half.float(), weights)):
        torch.testing.assert_close(one.float(), other, rtol=1e-2, atol=1e-2 * float(other.abs().max()))


def test_a_network_learns_the_same_in_both_layouts():
    torch.manual_seed(0)
    plain = ResUNet(1, 4, (4, 8, 12, 16), deep_supervision=1).train()
    last = copy.deepcopy(plain)
    lay_channels_last(last)
    image = torch.randn(2, 1, 16, 16, 16)
    for network in (plain, last):
        torch.stack([logits.square().mean() for logits in network(image)]).sum().backward()
    for (name, one), other in zip(last.named_parameters(), plain.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_without_gradients_nothing_changes():
    x = torch.randn(1, 8, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    assert not last_on_cpu(x)
