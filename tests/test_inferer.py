import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from scripts.inference.inferer import Mirrored, VolumeInferer

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


def over_flips(network, image, axes):
    """Mean of the probabilities over flips of an image (1, C, H, W, D)."""
    return torch.stack([network(image.flip(axis)).flip(axis).softmax(1) for axis in axes]).mean(0)


FLIPS = [(), (2, 3), (2, 4), (3, 4)]


def test_mirroring_one_window_is_the_mean_of_probabilities_over_flips_of_no_or_two_axes(network, volume):
    options = OPTIONS | {"roi_size": [24, 32, 24]}
    with torch.no_grad():
        mirrored = VolumeInferer(mirror=True, **options)(volume, network)
        expected = over_flips(network, volume, FLIPS)
    assert torch.allclose(mirrored.exp(), expected, atol=1e-6)
    assert torch.allclose(mirrored.softmax(1), expected, atol=1e-6)  # logits as without


def test_each_window_takes_one_flip_and_its_neighbours_take_others(network):
    windows = torch.randn(8, 1, 6, 7, 8, generator=torch.Generator().manual_seed(2))  # two along each axis
    mirrored = Mirrored(network, 1)
    with torch.no_grad():
        means = torch.cat([mirrored(batch) for batch in windows.split(2)])
        flipped = [[over_flips(network, window[None], [axes])[0] for axes in FLIPS] for window in windows]
    took = [[torch.allclose(mean, option, atol=1e-6) for option in row] for mean, row in zip(means, flipped)]
    assert all(sum(row) == 1 for row in took)
    flip = [row.index(True) for row in took]
    assert set(flip) == {0, 1, 2, 3}
    for step in (1, 2, 4):  # numbers to the neighbour along the last, the second and the first axis
        assert all(flip[n] != flip[n + step] for n in range(8) if not n & step)


def test_mirrored_windows_are_blended_like_others(volume):
    """A network that looks at each voxel alone gives a flipped window the same."""
    torch.manual_seed(0)
    network = nn.Conv3d(1, 4, 1).eval()
    with torch.no_grad():
        found, expected = VolumeInferer(mirror=True, **OPTIONS)(volume, network), network(volume)
    assert torch.allclose(found.exp(), expected.softmax(1), atol=1e-5)


def test_mirrored_inference_gives_a_turned_volume_the_same_map_turned(network, volume):
    inferer = VolumeInferer(mirror=True, whole_volume=10**6, **OPTIONS)
    turned = (2, 4)
    with torch.no_grad():
        assert torch.allclose(inferer(volume.flip(turned), network), inferer(volume, network).flip(turned), atol=1e-5)
