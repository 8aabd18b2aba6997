"""What the augmentation for other hospitals does to an image."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser

from conftest import BUNDLE
from scripts.data.other_hospital import RandEnhancement, RandThickSlices


def test_thick_slices_lose_what_changes_within_a_slice_and_keep_what_does_not():
    stripes = torch.ones(1, 12, 12, 12)
    stripes[:, ::2] = -1  # along the first axis
    ramp = torch.linspace(-1, 1, 12)[None, :, None, None].expand(1, 12, 12, 12)
    transform = RandThickSlices(prob=1.0, factors=(2.0, 2.0))
    transform.set_random_state(0)
    results = [transform(stripes) for _ in range(30)]
    lost = [not result.any() for result in results]
    assert 4 < sum(lost) < 18  # one axis of three
    assert all(torch.equal(result, stripes) for result, gone in zip(results, lost) if not gone)
    for _ in range(10):  # a straight line stays one, but for the ends
        assert torch.allclose(transform(ramp)[:, 1:-1], ramp[:, 1:-1], atol=1e-5)


def test_enhancement_changes_only_what_is_bright():
    image = torch.tensor([-2.0, 0.0, 1.0, 2.0, 5.0])
    transform = RandEnhancement(prob=1.0, factors=(0.5, 0.5))
    assert transform(image).tolist() == pytest.approx([-2, 0, 1, 1.5, 3])
    transform = RandEnhancement(prob=0.5, factors=(0.3, 1.5))
    transform.set_random_state(0)
    changes = [float(transform(image)[-1]) for _ in range(200)]
    drawn = [change for change in changes if change != 5]
    assert 70 < len(drawn) < 130 and 2.2 <= min(drawn) < 3 and 6.5 < max(drawn) <= 7


def test_the_overlay_can_be_built_and_changes_the_image_alone():
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / "train.yaml"), str(BUNDLE / "configs" / "other_hospital.yaml")])
    parser["teacher_inputs"] = []
    parser["image_keys"], parser["spatial_keys"] = ["image"], ["image", "label"]
    augmentation = parser.get_parsed_content("augmentation")
    augmentation.set_random_state(0)
    image = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    for _ in range(30):
        result = augmentation({"image": image, "label": label})
        assert torch.isfinite(torch.as_tensor(result["image"])).all() and not torch.as_tensor(result["label"]).any()
