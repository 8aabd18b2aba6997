import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from scripts.inference.inferer import VolumeInferer

OPTIONS = {"roi_size": [16, 16, 16], "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Conv3d(1, 4, 3, padding=1).eval()


@pytest.fixture
def volume():
    return torch.randn(1, 1, 20, 27, 18, generator=torch.Generator().manual_seed(1))


def test_without_its_options_it_is_monais(network, volume):
    with torch.no_grad():
        assert torch.equal(VolumeInferer(**OPTIONS)(volume, network), SlidingWindowInferer(**OPTIONS)(volume, network))


def test_a_volume_that_fits_goes_in_one_pass_of_padded_size(volume):
    seen = []

    def network(image):
        seen.append(tuple(image.shape[2:]))
        return image

    inferer = VolumeInferer(whole_volume=20 * 27 * 18, **OPTIONS)
    assert torch.allclose(inferer(volume, network), volume)
    assert seen == [(24, 32, 24)]
    seen.clear()
    inferer(torch.zeros(1, 1, 20, 27, 19), network)  # one slice more: windows
    assert set(seen) == {(16, 16, 16)} and len(seen) > 1


def test_mirroring_is_the_mean_of_probabilities_over_flips_of_no_or_two_axes(network, volume):
    with torch.no_grad():
        mirrored = VolumeInferer(mirror=True, **OPTIONS)(volume, network)
        plain = SlidingWindowInferer(**OPTIONS)
        expected = torch.zeros(1, 4, 20, 27, 18)
        for flags in (0b000, 0b011, 0b101, 0b110):
            axes = [axis + 2 for axis in range(3) if flags >> axis & 1]
            expected += plain(volume.flip(axes), network).flip(axes).softmax(1) / 4
    assert torch.allclose(mirrored.exp(), expected, atol=1e-6)
    assert torch.allclose(mirrored.softmax(1), expected, atol=1e-6)  # logits as without


def test_mirrored_inference_gives_a_turned_volume_the_same_map_turned(network, volume):
    inferer = VolumeInferer(mirror=True, whole_volume=10**6, **OPTIONS)
    turned = (2, 4)
    with torch.no_grad():
        assert torch.allclose(inferer(volume.flip(turned), network), inferer(volume, network).flip(turned), atol=1e-5)
