"""Augmentation of batches on the networks' device, so that loading processes only cut patches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import decollate_batch
from monai.engines import PrepareBatchExtraInput
from monai.transforms import Compose, MapTransform, RandAffined, Randomizable, RandomizableTransform, Resample
from monai.utils import MAX_SEED, CommonKeys

from scripts.errors import UserError
from scripts.method.gaps import is_gap


class PrepareAugmentedBatch(PrepareBatchExtraInput):
    """MONAI's PrepareBatchExtraInput that first augments each sample of the batch on the device.

    Images arrive in half precision, which is quick to move. They are augmented in float32 and stay in float32.

    Args:
        augmentation: dictionary transforms of a sample of plain tensors, seeded by EpochSeed; None for none.
        sequences: keys of the batch that the network takes besides the image. Other keys are left out.
        gaps: whether patients lack sequences or labels. The network then also gets ``samples``: the numbers of those
            that have each key.

    Shapes: a batch of (B, C, H, W, D) -> image, label, (), {name: image}, of the same shapes.

    Raises:
        UserError: if the augmentation changes the shapes of a sample, or returns anything else than a sample.
    """

    def __init__(self, augmentation: Compose | None, sequences: Sequence[str] = (), gaps: bool = False) -> None:
        super().__init__({name: name for name in sequences})
        self.augmentation = augmentation
        self.gaps = gaps
        self.keys = [CommonKeys.IMAGE, CommonKeys.LABEL, *sequences]

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        samples = {
            key: [number for number, volume in enumerate(batchdata[key]) if not is_gap(volume)]
            for key in (self.keys if self.gaps else ())
        }
        batch = {key: batchdata[key].to(device, non_blocking=non_blocking) for key in self.keys}
        batch = {key: value.float() if value.is_floating_point() else value for key, value in batch.items()}
        if self.augmentation is not None:
            augmented = []
            for number, sample in enumerate(decollate_batch(batch)):
                there = {key: volume for key, volume in sample.items() if number in samples.get(key, [number])}
                augmented.append(sample | self.augment(there))
            batch = {key: torch.stack([sample[key] for sample in augmented]) for key in self.keys}
        image, label, arguments, options = super().__call__(batch, device, non_blocking, **kwargs)
        return image, label, arguments, options | ({"samples": samples} if samples else {})

    def augment(self, sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The augmented sample, in plain tensors of the sample's types and shapes."""
        changed = self.augmentation(sample)  # type: ignore[misc]
        if not isinstance(changed, Mapping):
            raise UserError(f"augmentation gives a {type(changed).__name__}, expected one sample: see `patches`.")
        for key, value in sample.items():
            found = tuple(changed[key].shape) if key in changed else "nothing"
            if found != tuple(value.shape):
                raise UserError(
                    f"augmentation makes {found} of {key}, expected {tuple(value.shape)} as before: see `patches`."
                )
        return {key: torch.as_tensor(changed[key]).as_subclass(torch.Tensor).to(sample[key].dtype) for key in sample}


class PerSequenced(Randomizable, MapTransform):
    """Random intensity transforms that are drawn for each sequence on its own; MONAI draws once for all keys.

    Sequences then do not change alike, so no network can rely on the contrast between them. Each key has its own
    random stream, which does not depend on the other keys. Background (exactly 0) stays 0.

    Args:
        keys: images, each (C, H, W, D). Every channel is one sequence.
        transforms: MONAI array transforms, in order; None for none.
        allow_missing_keys: skip keys that are absent.
    """

    def __init__(
        self, keys: KeysCollection, transforms: Sequence[Callable] | None, allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.pipelines = {key: Compose([deepcopy(transform) for transform in transforms or ()]) for key in self.keys}
        self.set_random_state()

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> PerSequenced:
        super().set_random_state(seed, state)
        for pipeline in self.pipelines.values():
            pipeline.set_random_state(seed=self.R.randint(MAX_SEED, dtype="uint32"))
        return self

    def randomize(self, data: Any = None) -> None:
        """Each transform draws for itself when it is called."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            plain = image.as_tensor() if isinstance(image, MetaTensor) else image
            channels = [torch.where(c != 0, torch.as_tensor(self.pipelines[key](c)), c) for c in plain.split(1)]
            changed = torch.cat(channels).to(plain.dtype)
            result[key] = MetaTensor(changed, meta=image.meta) if isinstance(image, MetaTensor) else changed
        return result


class RandNoise(RandomizableTransform):
    """MONAI's RandGaussianNoise, drawn in the image's own type and on its device, not in float64 by NumPy.

    Args:
        prob: probability of noise.
        std: largest standard deviation. Each image's standard deviation is drawn evenly from 0 to this.

    Shapes: any -> the same.
    """

    def __init__(self, prob: float = 0.1, std: float = 0.1) -> None:
        super().__init__(prob)
        self.std = std

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        self.randomize(None)
        if not self._do_transform:
            return img
        std = self.R.uniform(0, self.std)
        generator = torch.Generator(img.device).manual_seed(int(self.R.randint(MAX_SEED, dtype="uint32")))
        return img + std * torch.randn(img.shape, generator=generator, device=img.device, dtype=img.dtype)


class StackedRandAffined(RandAffined):
    """RandAffined that resamples all keys of one mode in one call, in float32: the same patches, 2 to 3 times faster.

    MONAI's RandAffined resamples key after key in float64. Keys must have equal spatial shapes. Resampled keys lose
    their meta data, because its affine is no longer true. Types stay, so that all samples fit into one batch.

    Shapes: each key (C, H, W, D) -> (C, H, W, D).
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        self.rand_affine.rand_affine_grid.device = result[self.first_key(result)].device
        groups: dict[tuple[str, str], list[Hashable]] = {}
        for key, mode, padding in self.key_iterator(result, self.mode, self.padding_mode):
            groups.setdefault((mode, padding), []).append(key)
        grid = self.rand_affine.rand_affine_grid(result[self.first_key(result)].shape[1:])
        for (mode, padding), keys in groups.items():
            images = [torch.as_tensor(result[key]).as_subclass(torch.Tensor) for key in keys]
            stack = Resample(mode=mode, padding_mode=padding, dtype=torch.float32)(torch.cat(images), grid)
            parts = stack.as_subclass(torch.Tensor).split([len(image) for image in images])
            result.update((key, part.to(image.dtype)) for key, part, image in zip(keys, parts, images))
        return result
