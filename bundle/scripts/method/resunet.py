"""The segmentation network of MTCM-KD: a residual 3-D U-Net with attention on its skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from scripts.method.channels_last import GroupNorm, InstanceNorm, last_on_cpu, mean_and_max, scale_channels

SLOPE = 0.01  # of every LeakyReLU
STRIDE = 8  # the bottleneck is at 1/8 resolution, so sizes are multiples of this
REDUCTION = 16  # channels // REDUCTION = hidden width of a channel gate, at least 1
WIDTHS = "four numbers of channels, all multiples of 4 or all of 6"


def are_widths(numbers: Sequence[int]) -> bool:
    """Whether these are WIDTHS, so that the sums of neighbours, which the decoder normalises, have groups too."""
    return len(numbers) == 4 and any(all(number % groups == 0 for number in numbers) for groups in (4, 6))


def group_norm(channels: int) -> GroupNorm:
    """GroupNorm with 6 groups where 6 divides the channels, else 4."""
    return GroupNorm(6 if channels % 6 == 0 else 4, channels)


def amax_by_axis(x: torch.Tensor) -> torch.Tensor:
    """The largest value of every channel, (B, C, H, W, D) -> (B, C). Where channels are last, PyTorch 2.13 takes up to
    30 times as long on a CPU over all axes at once. Equal maxima share their gradient by axis, not evenly."""
    return x.movedim(1, -1).amax(dim=2).amax(dim=1).amax(dim=1)


class ChannelGate(nn.Module):
    """Channel attention: average- and max-pooled descriptors through one shared MLP, summed, sigmoid.

    Woo et al. 2018 (CBAM, eq. 2), https://arxiv.org/abs/1807.06521, with LeakyReLU as in MTCM-KD.

    Shapes: (B, C, H, W, D) -> (B, C, H, W, D).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // REDUCTION, 1)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.act = nn.LeakyReLU(SLOPE)

    def mlp(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(pooled)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102
            if last_on_cpu(x):
                mean, highest = mean_and_max(x)
                return scale_channels(x, torch.sigmoid(self.mlp(mean) + self.mlp(highest)))
        flat = x.flatten(2)  # (B, C, H·W·D)
        largest = flat.amax(dim=2) if x.is_contiguous() else amax_by_axis(x)
        gate = torch.sigmoid(self.mlp(flat.mean(dim=2)) + self.mlp(largest))  # (B, C)
        return x * gate[:, :, None, None, None]


class SpatialGate(nn.Module):
    """Spatial attention: channel max and mean through one 7³ convolution, normalised, sigmoid.

    Woo et al. 2018 (CBAM, eq. 3), with MTCM-KD's normalisation and LeakyReLU before the sigmoid.

    Shapes: (B, C, H, W, D) -> (B, C, H, W, D).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 1, kernel_size=7, padding=3)
        self.norm = nn.GroupNorm(1, 1)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.stack([x.amax(dim=1), x.mean(dim=1)], dim=1)  # (B, 2, H, W, D)
        return x * torch.sigmoid(self.act(self.norm(self.conv(pooled))))


class CBAM(nn.Sequential):
    """Channel gate, then spatial gate (Woo et al. 2018). Shapes: (B, C, H, W, D) -> (B, C, H, W, D)."""

    def __init__(self, channels: int) -> None:
        super().__init__(ChannelGate(channels), SpatialGate())


ATTENTION = {"channel": ChannelGate, "cbam": CBAM}


class Stem(nn.Module):
    """First block: (conv → InstanceNorm → LeakyReLU → conv) + conv. Shapes: (B, C_in, ...) -> (B, C_out, ...)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.norm = InstanceNorm(out_channels)
        self.act = nn.LeakyReLU(SLOPE)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv3d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.act(self.norm(self.conv1(x)))) + self.skip(x)


class ResidualBlock(nn.Module):
    """Pre-activation residual block. Shapes: (B, C_in, H, W, D) -> (B, C_out, H/s, W/s, D/s) at stride s."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.skip_conv = nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.skip_norm = group_norm(out_channels)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.conv1(self.act(self.norm1(x)))
        residual = self.conv2(self.act(self.norm2(residual)))
        return residual + self.skip_norm(self.skip_conv(x))


class ResUNet(nn.Module):
    """Pre-activation residual 3-D U-Net with channel attention after each skip concatenation (MTCM-KD).

    Ahmad, Ullah, Gwak 2024, Knowledge-Based Systems 297:111854, doi 10.1016/j.knosys.2024.111854.
    The outputs of ``decoder2`` (1/2 resolution, widths[1] channels) and ``decoder1`` (1/4, widths[2]) are the
    features that CDSFL fuses.

    Shapes: (B, C_in, H, W, D), each of H, W, D a multiple of 8 -> logits (B, C, H, W, D). In training mode with
    ``deep_supervision`` = 1 or 2 a list of logits: full, 1/2 (and 1/4) resolution. In eval mode always one tensor.

    Args:
        in_channels: sequences stacked on the channel axis.
        out_channels: classes, background included.
        widths: channels at full, 1/2, 1/4 and 1/8 resolution, all multiples of 4 or all of 6.
        attention: "channel" (the paper's) or "cbam" (its ablation).
        deep_supervision: number of lower-resolution heads, 0 to 2. They serve training alone, so weights of heads that
            a network does not have are ignored when it loads a state dict.
        xavier: initialise convolutions and linear layers by Glorot's rule, as the authors do for their student.

    Raises:
        ValueError: if widths, attention or deep_supervision are not as above.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 4,
        widths: Sequence[int] = (32, 64, 128, 256),
        attention: str = "channel",
        deep_supervision: int = 0,
        xavier: bool = False,
    ) -> None:
        super().__init__()
        if not are_widths(widths):
            raise ValueError(f"widths must be {WIDTHS}, got {list(widths)}.")
        if attention not in ATTENTION:
            raise ValueError(f"attention must be one of {sorted(ATTENTION)}, got {attention!r}.")
        if deep_supervision not in (0, 1, 2):
            raise ValueError(f"deep_supervision must be 0, 1 or 2, got {deep_supervision!r}.")
        w0, w1, w2, w3 = widths
        gate = ATTENTION[attention]
        self.stem = Stem(in_channels, w0)
        self.encoder1 = ResidualBlock(w0, w1, stride=2)
        self.encoder2 = ResidualBlock(w1, w2, stride=2)
        self.bridge = ResidualBlock(w2, w3, stride=2)
        self.up1 = nn.ConvTranspose3d(w3, w3, 2, stride=2)
        self.attention1 = gate(w3 + w2)
        self.decoder1 = ResidualBlock(w3 + w2, w2)
        self.up2 = nn.ConvTranspose3d(w2, w2, 2, stride=2)
        self.attention2 = gate(w2 + w1)
        self.decoder2 = ResidualBlock(w2 + w1, w1)
        self.up3 = nn.ConvTranspose3d(w1, w1, 2, stride=2)
        self.attention3 = gate(w1 + w0)
        self.decoder3 = ResidualBlock(w1 + w0, w0)
        self.head = nn.Conv3d(w0, out_channels, 1)
        self.head_half = nn.Conv3d(w1, out_channels, 1) if deep_supervision >= 1 else None
        self.head_quarter = nn.Conv3d(w2, out_channels, 1) if deep_supervision >= 2 else None
        if xavier:
            for module in self.modules():
                if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d, nn.Linear)):
                    nn.init.xavier_uniform_(module.weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Ignore the weights of deep-supervision heads that this network does not have: they only help training."""
        for head in ("head_half", "head_quarter"):
            if getattr(self, head) is None:
                state_dict.pop(f"{prefix}{head}.weight", None)
                state_dict.pop(f"{prefix}{head}.bias", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        full = self.stem(x)  # (B, w0, H, W, D)
        half = self.encoder1(full)  # (B, w1, H/2, W/2, D/2)
        quarter = self.encoder2(half)  # (B, w2, H/4, W/4, D/4)
        eighth = self.bridge(quarter)  # (B, w3, H/8, W/8, D/8)
        quarter = self.decoder1(self.attention1(torch.cat([self.up1(eighth), quarter], dim=1)))
        half = self.decoder2(self.attention2(torch.cat([self.up2(quarter), half], dim=1)))
        full = self.decoder3(self.attention3(torch.cat([self.up3(half), full], dim=1)))
        logits = self.head(full)
        outputs = [logits]
        if self.head_half is not None:
            outputs.append(self.head_half(half))
        if self.head_quarter is not None:
            outputs.append(self.head_quarter(quarter))
        if self.training and len(outputs) > 1:
            return outputs
        return logits
