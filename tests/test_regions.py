"""Networks of three sigmoid regions as students and teachers."""

import pytest
import torch
import torch.nn.functional as F

from scripts.labels import REGIONS
from scripts.method.losses import SegmentationLoss
from scripts.method.weights import load_weights
from scripts.variants.regions import ClassesFromRegions


def regions_of(logits):
    """Probability of each region by what a softmax network's classes say."""
    return {name: logits.softmax(1)[:, list(members)].sum(1) for name, members in REGIONS}


@pytest.mark.parametrize("conditional", [True, False])
def test_a_network_of_regions_gives_classes_that_give_its_regions_back(conditional):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    image = torch.randn(2, 1, 5, 6, 7)
    core, whole, enhancing = network(image).sigmoid().unbind(1)
    if conditional:
        expected = {"WT": whole, "TC": whole * core, "ET": whole * core * enhancing}
    else:
        core = torch.maximum(core, enhancing)
        expected = {"ET": enhancing, "TC": core, "WT": torch.maximum(whole, core)}
    logits = ClassesFromRegions(network, conditional)(image)
    assert logits.shape == (2, 4, 5, 6, 7)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(2, 5, 6, 7), atol=1e-5, rtol=0)
    for name, region in regions_of(logits).items():
        torch.testing.assert_close(region, expected[name], atol=1e-5, rtol=0)


def test_weights_of_the_network_alone_are_loaded(tmp_path):
    trained, wrapped = torch.nn.Conv3d(1, 3, 1), ClassesFromRegions(torch.nn.Conv3d(1, 3, 1), conditional=False)
    for name, weights in (("alone", trained.state_dict()), ("wrapped", ClassesFromRegions(trained).state_dict())):
        torch.save(weights, tmp_path / f"{name}.pt")
        load_weights(wrapped, str(tmp_path / f"{name}.pt"))
        torch.testing.assert_close(wrapped.network.weight, trained.weight)
        torch.nn.init.zeros_(wrapped.network.weight)


def test_weights_of_another_width_are_named_by_their_shape(tmp_path):
    torch.save(torch.nn.Conv3d(2, 3, 1).state_dict(), tmp_path / "other.pt")
    with pytest.raises(RuntimeError, match="size mismatch for network.weight"):
        ClassesFromRegions(torch.nn.Conv3d(1, 3, 1)).load_state_dict(torch.load(tmp_path / "other.pt"))


def test_another_number_of_outputs_is_named():
    with pytest.raises(ValueError, match="4 outputs"):
        ClassesFromRegions(torch.nn.Conv3d(1, 4, 1))(torch.zeros(1, 1, 4, 4, 4))


def test_every_class_has_a_gradient_at_every_voxel_whatever_the_outputs():
    outputs = torch.randn(4, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = ClassesFromRegions(torch.nn.Identity())(outputs)
    for label in range(4):
        truth = torch.full((4, 8, 8, 8), label)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, truth), outputs, retain_graph=True)
        assert (gradient.abs().sum(1) > 1e-8).all(), label


@pytest.mark.parametrize("loss", [F.cross_entropy, SegmentationLoss()])
@pytest.mark.parametrize("seed", range(3))
def test_a_network_of_regions_learns_all_classes_from_random_weights(loss, seed):
    torch.manual_seed(seed)
    label = torch.randint(0, 4, (2, 1, 8, 8, 8))
    image = F.one_hot(label[:, 0], 4).movedim(-1, 1).float()  # shows the class of each voxel
    network = ClassesFromRegions(torch.nn.Conv3d(4, 3, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        logits = network(image)
        loss(logits, label[:, 0] if loss is F.cross_entropy else label).backward()
        optimizer.step()
    assert torch.equal(network(image).argmax(1), label[:, 0])
