"""Augmentation of batches: what it draws, that it equals MONAI's, and that it stays on the device."""

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import (
    Affine,
    CenterSpatialCropd,
    Compose,
    OneOf,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensity,
    SelectItemsd,
)
from torch.overrides import TorchFunctionMode

from conftest import BUNDLE
from scripts.data.augmentation import PerSequenced, PrepareAugmentedBatch, RandNoise, StackedRandAffined
from scripts.errors import UserError


def test_every_sequence_gets_its_own_intensities_and_background_stays():
    image = torch.ones(2, 4, 4, 4)
    image[:, :2] = 0
    augment = PerSequenced(["image", "flair"], [RandScaleIntensity(prob=1.0, factors=0.5), RandNoise(prob=1.0)])
    augment.set_random_state(seed=0)
    result = augment({"image": image, "flair": image.clone()})
    channels = [*result["image"], *result["flair"]]
    assert all((channel[:2] == 0).all() and (channel[2:] != 0).any() for channel in channels)
    assert len({round(channel[2:].mean().item(), 4) for channel in channels}) == 4
    assert image.sum() == 64  # the input is left as it was
    alone = PerSequenced("image", [RandScaleIntensity(prob=1.0, factors=0.5), RandNoise(prob=1.0)])
    for other in (augment, alone):  # the same stream, with or without other keys
        other.set_random_state(seed=0)
        assert torch.equal(other({"image": image, "flair": image})["image"], result["image"])


def test_stacked_affine_equals_monai_key_after_key():
    generator = torch.Generator().manual_seed(0)
    case = {key: torch.rand(channels, 8, 9, 10, generator=generator) for key, channels in {"image": 1, "t2": 2}.items()}
    case["label"] = torch.randint(0, 4, (1, 8, 9, 10), generator=generator).to(torch.uint8)
    modes = {"image": "bilinear", "t1": "bilinear", "t2": "bilinear", "label": "nearest"}
    options = {"rotate_range": [0.4] * 3, "scale_range": [0.2] * 3, "padding_mode": "zeros"}
    stacked = StackedRandAffined(list(modes), prob=1.0, mode=list(modes.values()), **options, allow_missing_keys=True)
    stacked.set_random_state(0)
    result = stacked(case)
    matrix = stacked.rand_affine.rand_affine_grid.get_transformation_matrix()
    assert result.keys() == case.keys()
    for key, image in case.items():
        alone, _ = Affine(affine=matrix, padding_mode="zeros")(image, mode=modes[key])
        assert not torch.equal(alone, image)
        torch.testing.assert_close(result[key], alone.as_tensor().to(image.dtype), atol=1e-5, rtol=0)


def test_stacked_affine_is_drawn_as_often_as_it_should():
    stacked = StackedRandAffined(["image"], prob=0.3, rotate_range=[0.4] * 3, mode="bilinear")
    stacked.set_random_state(0)
    image = torch.rand(1, 4, 4, 4)
    changed = sum(not torch.equal(stacked({"image": image})["image"], image) for _ in range(400))
    assert 90 < changed < 150


def test_noise_is_as_strong_as_drawn_and_repeats_with_the_seed():
    noise, image = RandNoise(prob=0.5, std=0.4), torch.full((1, 20, 20, 20), 3.0)
    noise.set_random_state(0)
    results = [noise(image) - image for _ in range(200)]
    stds = torch.stack([result.std() for result in results if result.any()])
    assert 80 < len(stds) < 120  # half of 200
    assert stds.max() < 0.41 and stds.mean() == pytest.approx(0.2, abs=0.03)  # drawn evenly from 0 to 0.4
    assert abs(torch.stack(results).mean()) < 1e-3
    noise.set_random_state(0)
    assert torch.equal(noise(image) - image, results[0])


class OnDevice(TorchFunctionMode):
    """Fails where an image would leave a GPU, or a tensor be made on the CPU. A 4 by 4 matrix may leave."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in ("numpy", "cpu", "__array__", "tolist") and args[0].numel() > 16:
            raise AssertionError(f"{name} leaves the device")
        if name in ("randn", "rand", "zeros", "ones", "linspace") and kwargs.get("device") is None:
            raise AssertionError(f"{name} is not told the device")
        return func(*args, **kwargs)


def certain_augmentation():
    """The augmentation of train.yaml, with every change made each time."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "train.yaml")
    parser.update({"teacher_images": ["flair"]})
    augmentation = parser.get_parsed_content("augmentation")
    (intensities,) = (t for t in augmentation.transforms if isinstance(t, PerSequenced))
    for transform in [*augmentation.transforms, *(t for p in intensities.pipelines.values() for t in p.transforms)]:
        transform.prob = 1.0
    return augmentation.set_random_state(0)


def batch_of_two(device="cpu"):
    label = torch.zeros(2, 1, 8, 8, 8, dtype=torch.uint8, device=device)
    label[:, :, 2:6, 2:6, 3:] = 3
    image = (label.half() + 1) * (label > 0)
    return {"image": image, "flair": image.clone(), "label": label, "note": ["a", "b"]}


def test_a_batch_is_augmented_sample_by_sample_without_leaving_the_device():
    batch, before = batch_of_two(), batch_of_two()
    prepare = PrepareAugmentedBatch(certain_augmentation(), ["flair"])
    with OnDevice():
        image, label, _, others = prepare(batch, "cpu")
    assert image.shape == batch["image"].shape and image.dtype == others["flair"].dtype == torch.float32
    assert label.dtype == torch.uint8 and set(label.unique().tolist()) == {0, 3}
    assert not torch.equal(label[0], label[1])  # drawn for each sample
    assert not torch.equal(label, batch["label"]) and not torch.equal(image, others["flair"])
    inside, outside = (torch.nn.functional.max_pool3d(v.float(), 3, 1, 1) == 0 for v in (3 - label, label))
    assert image[inside].min() > image[outside].max() - 1  # images and label were moved together
    assert (image[outside] == 0).all()
    assert all(torch.equal(batch[key], before[key]) for key in ("image", "flair", "label"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_batch_is_augmented_on_a_gpu():
    image, label, _, others = PrepareAugmentedBatch(certain_augmentation(), ["flair"])(batch_of_two(), "cuda")
    assert {image.device.type, label.device.type, others["flair"].device.type} == {"cuda"}


def test_a_users_own_transforms_may_give_meta_tensors_of_some_samples_and_keys():
    own = OneOf([RandFlipd(["image", "label"], prob=1.0), RandGaussianNoised("image", prob=1.0, dtype=float)])
    prepare = PrepareAugmentedBatch(own.set_random_state(1))
    for _ in range(4):
        image, label, _, _ = prepare(batch_of_two(), "cpu")
        assert type(image) is type(label) is torch.Tensor
        assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)


@pytest.mark.parametrize(
    "transform, message",
    [
        (CenterSpatialCropd("image", roi_size=4), r"\(1, 4, 4, 4\) of image, .*\(1, 8, 8, 8\)"),
        (SelectItemsd("image"), "nothing of label"),
        (lambda sample: [sample, sample], "augmentation .*list"),
    ],
)
def test_augmentation_may_not_change_what_a_batch_is(transform, message):
    with pytest.raises(UserError, match=message):
        PrepareAugmentedBatch(Compose([transform]))(batch_of_two(), "cpu")
