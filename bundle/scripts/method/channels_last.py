"""Normalisation and channel gates that train fast on CPUs where channels are last.

In this layout PyTorch 2.13 spends about 30% of a training step on group normalisation and channel gates. Its batch
normalisation is fast there, and does the same per sample: x · scale + shift of each channel, and the sums that the
gradients of scale and shift need. Values are those of PyTorch's own functions but for rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

LAST = torch.channels_last_3d


def last_on_cpu(x: torch.Tensor) -> bool:
    """Whether a gradient is computed for x (B, C, H, W, D) on a CPU, with channels last. Exports compute none."""
    wanted = x.requires_grad and x.device.type == "cpu" and x.ndim == 5
    return wanted and x.is_contiguous(memory_format=LAST) and not x.is_contiguous()


class GroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm with a fast backward pass where channels are last on a CPU. Shapes: (B, C, H, W, D), same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript leaves out what is within this
            if last_on_cpu(x):
                return GroupNormLast.apply(x, self.num_groups, self.weight, self.bias, self.eps)
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class InstanceNorm(nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d, without weights, that leaves channels last on a CPU. Shapes: (B, C, H, W, D), same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = F.instance_norm(x, eps=self.eps)
        if not torch.jit.is_scripting():  # noqa: SIM102
            if last_on_cpu(x):
                return normed.contiguous(memory_format=LAST)
        return normed


class GroupNormLast(torch.autograd.Function):
    """Group normalisation of a tensor in channels-last memory."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """y = w · (x - mean) / std + b. A group's variance is that within its channels plus that of their means."""
        size = len(weight) // groups
        means, variances = (values.view(len(x), groups, size) for values in mean_and_variance(x))
        mean = means.mean(dim=2, keepdim=True)
        rstd = (variances.mean(dim=2) + (means - mean).square().mean(dim=2) + eps).rsqrt()
        mean, rstd = mean[..., 0].repeat_interleave(size, dim=1), rstd.repeat_interleave(size, dim=1)  # (B, C)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return scale_and_shift(x, weight * rstd, bias - weight * rstd * mean)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """dx = (w · dy - mean(w · dy) - x̂ · mean(w · dy · x̂)) / std, means over a group and x̂ = (x - mean) / std."""
        x, weight, mean, rstd = ctx.saved_tensors
        batch, voxels = len(x), x[0, 0].numel()
        var = rstd**-2
        parts = [scale_backward(g, one, weight, m, v) for g, one, m, v in zip(of_samples(grad), x.split(1), mean, var)]
        d_weight, d_bias = (torch.stack([part[index] for part in parts]) for index in (1, 2))  # Σ dy · x̂, Σ dy: (B, C)

        def share(sums: torch.Tensor) -> torch.Tensor:
            means = (weight * sums).view(batch, ctx.groups, -1).mean(dim=2) / voxels
            return -rstd * means.repeat_interleave(len(weight) // ctx.groups, dim=1)

        by_x = share(d_weight) * rstd
        dx = scale_and_shift(x, by_x, share(d_bias) - by_x * mean)
        for one, part in zip(dx.split(1), parts):
            one.add_(part[0])
        return dx, None, d_weight.sum(dim=0), d_bias.sum(dim=0), None


def mean_and_max(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and largest value of each channel, channels last: (B, C, H, W, D) -> (B, C), (B, C)."""
    return MeanAndMax.apply(x)


def scale_channels(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """x · gate, channels last: (B, C, H, W, D), (B, C) -> (B, C, H, W, D)."""
    return Scale.apply(x, gate.float())


class MeanAndMax(torch.autograd.Function):
    """Mean and maximum of each channel: (B, C, H, W, D) -> two of (B, C)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        last = x.movedim(1, -1)  # (B, H, W, D, C)
        rows = last.amax(dim=2)  # (B, H, D, C)
        largest = rows.amax(dim=2).amax(dim=1)
        ctx.save_for_backward(x, rows, largest)
        return mean_and_variance(x)[0].to(x.dtype), largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mean: torch.Tensor, d_max: torch.Tensor) -> torch.Tensor:
        """Equal maxima share the gradient. Few rows hold one, so the others are not searched."""
        x, rows, largest = ctx.saved_tensors
        last = x.movedim(1, -1)
        line = (d_mean / x[0, 0].numel()).repeat(1, x.shape[4])[:, None, None]  # D · C: copied faster than C
        dx = line.expand(*last.shape[:3], -1).contiguous().view(last.shape)
        b, h, d, c = (rows == largest[:, None, None]).nonzero(as_tuple=True)
        row, w = (last[b, h, :, d, c] == largest[b, c, None]).nonzero(as_tuple=True)
        b, h, d, c = b[row], h[row], d[row], c[row]
        count = torch.zeros(largest.shape).index_put_((b, c), torch.ones(()), accumulate=True)
        return dx.index_put_((b, h, w, d, c), (d_max / count)[b, c].to(dx.dtype), accumulate=True).movedim(-1, 1)


class Scale(torch.autograd.Function):
    """Each channel of (B, C, H, W, D) times its gate."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, gate)
        return scale_and_shift(x, gate, torch.zeros_like(gate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, gate = ctx.saved_tensors
        zero, one = gate.new_zeros(gate.shape[1]), gate.new_ones(gate.shape[1])
        parts = [scale_backward(g, s, scale, zero, one) for g, s, scale in zip(of_samples(grad), x.split(1), gate)]
        return torch.cat([part[0] for part in parts]), torch.stack([part[1] for part in parts])


def mean_and_variance(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of each sample's channels, at least in float32: (B, C, H, W, D) -> (B, C), (B, C)."""
    running = torch.zeros(2, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    found = [torch.batch_norm_update_stats(sample, running[0], running[1], 0.0) for sample in x.split(1)]
    return tuple(map(torch.stack, zip(*found)))


def scale_and_shift(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """x · scale + shift, by sample and channel: (B, C, H, W, D), (B, C), (B, C) -> (B, C, H, W, D)."""
    out, unused = torch.empty_like(x), torch.empty(0)
    zero, one = scale.new_zeros(scale.shape[1]), scale.new_ones(scale.shape[1])
    for sample, by, plus, into in zip(x.split(1), scale, shift, out.split(1)):
        torch.ops.aten.native_batch_norm.out(
            sample, by, plus, zero, one, False, 0.0, 0.0, out=into, save_mean=unused, save_invstd=unused
        )
    return out


def of_samples(grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The gradient sample by sample, in channels-last memory."""
    return grad.contiguous(memory_format=LAST).split(1)


def scale_backward(
    grad: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, mean: torch.Tensor, var: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, scale and shift of one sample's (x - mean) / √var · scale + shift, by channel."""
    masks = [True, True, True]
    return torch.ops.aten.native_batch_norm_backward(grad, x, scale, mean, var, None, None, False, 0.0, masks)
