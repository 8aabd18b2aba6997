"""Deterministic transforms that MONAI lacks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import monai.transforms
import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import InvertibleTransform, MapTransform, SpatialResample
from monai.utils import TraceKeys, convert_to_dst_type, convert_to_numpy, ensure_tuple

from scripts.data.volumes import whole_numbers
from scripts.labels import CLASSES, TARGETS
from scripts.method.gaps import fill

LARGE = 2**25  # voxels of a volume that is brought back to its own grid in parts
SLAB = 2**22  # voxels of a part
TRACE = 1e-6  # share of the largest value


def not_zero(image: torch.Tensor) -> torch.Tensor:
    """The foreground of a skull-stripped volume, for CropForegroundd: normalised volumes are negative in parts."""
    return image != 0


class LoadImaged(monai.transforms.LoadImaged):
    """MONAI's LoadImaged, with the affine that nibabel reads and the checks see: the sform, where it has a code.

    MONAI takes the qform where pixdim is nearer to it. The qform may be turned against the sform, and then an image
    would not lie where its label does.
    """

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        result = super().__call__(data, reader)
        for key in self.key_iterator(data):
            lay_by_header(result[key], data[key])
        return result


def lay_by_header(image: Any, path: str | Sequence[str]) -> None:
    """Give an image that was read the affine that nibabel reads from its file, or from the first of its files."""
    affine = torch.as_tensor(nib.load(ensure_tuple(path)[0]).affine)
    image.meta |= {"affine": affine, "original_affine": affine.clone()}


class DarkBackgroundd(MapTransform):
    """Raise the brain of volumes with values below 0 (z-scored ones), so that the background of 0 is darkest again.

    Otherwise resampling blends the brain's edge with grey instead of black. Other volumes pass unchanged, and the mean
    of the brain is taken off later.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            lowest = image.amin((1, 2, 3), keepdim=True).clamp(max=0)  # (C, 1, 1, 1)
            if bool((lowest < 0).any()):
                darkest = 1e-3 * (image.amax((1, 2, 3), keepdim=True) - lowest)  # the brain stays "not 0"
                shift = torch.where(lowest < 0, darkest - lowest, 0)
                result[key] = torch.where(not_zero(image), image + shift, image)
        return result


class WholeNumbersd(MapTransform):
    """Labels whose values are whole numbers up to rounding (0.99999994) become these numbers, as in ``read_volume``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            values = whole_numbers(convert_to_numpy(result[key]))
            result[key] = convert_to_dst_type(values, result[key])[0]
        return result


class SelectChannelsd(MapTransform):
    """Take a sequence out of a volume that holds several (MSD Task01), by the entry's own ``channels``.

    Entries without ``channels`` keep theirs. If a key was loaded from several files, each file gives one channel. The
    entry's ``case`` is noted in the metadata, so that output files bear its name.

    Shapes: (K · V, H, W, D), K files of V sequences -> (K, H, W, D).
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = True) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        channels = result.pop("channels", None)
        for key in self.key_iterator(result):
            if "case" in result and isinstance(result[key], MetaTensor):
                result[key].meta["case"] = result["case"]
        if channels is None:
            return result
        for key in self.key_iterator(result):
            wanted = np.atleast_1d(channels[key])
            volumes = result[key].shape[0] // len(wanted)
            result[key] = result[key][[file * volumes + int(channel) for file, channel in enumerate(wanted)]]
        return result


class Resampled(MapTransform, InvertibleTransform):
    """Resample volumes to a voxel size over the same field of view: images linearly, the label by nearest neighbour.

    At half the resolution each voxel is the mean of eight. A volume that has the voxel size passes unchanged. What is 0
    around the brain stays 0: rounding errors, of headers too, decide nothing. MONAI's
    Spacingd with ``scale_extent`` should do the same, but it moves volumes by half a voxel along every axis whose
    first voxel lies within half a voxel of the world's origin, as in BraTS (MONAI 1.6.1 takes the sign of its offset
    from the volume's corner).

    Args:
        keys: images and ``label``, each (C, H, W, D).
        spacing: voxel size in mm after resampling, or None to keep each volume's voxel size.
        allow_missing_keys: skip keys that are absent.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing = spacing
        self.resample = SpatialResample(padding_mode="border", dtype=torch.float64)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        if self.spacing is None:
            return result
        for key in self.key_iterator(result):
            image = result[key]
            affine, shape = same_view(image.affine.numpy(), image.shape[1:], self.spacing)
            mode = "nearest" if key == "label" else "bilinear"
            resampled = self.resample(image, dst_affine=affine, spatial_size=shape, mode=mode)
            result[key] = resampled if torch.allclose(affine, image.affine) else without_traces(resampled)
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result) if self.spacing is not None else ():
            large = math.prod(result[key].applied_operations[-1][TraceKeys.ORIG_SIZE]) > LARGE
            result[key] = self.inverse_in_slabs(result[key]) if large else self.resample.inverse(result[key])
        return result

    def inverse_in_slabs(self, image: MetaTensor) -> MetaTensor:
        """The inverse, computed for some slices at a time: in one piece, 512 x 512 x 400 voxels take 9 GiB."""
        done = self.resample.pop_transform(image)
        size, about = done[TraceKeys.ORIG_SIZE], done[TraceKeys.EXTRA_INFO]
        affine = torch.as_tensor(about["src_affine"], dtype=torch.float64)
        whole = torch.empty((len(image), *size), dtype=image.dtype, device=image.device)
        slices = max(1, SLAB // math.prod(size[1:]))
        with self.resample.trace_transform(False):
            for first in range(0, size[0], slices):
                part = whole[:, first : first + slices]
                start = affine.clone()
                start[:3, 3] += first * affine[:3, 0]
                part[:] = self.resample(image, dst_affine=start, spatial_size=part.shape[1:], mode=about["mode"])
        meta = image.meta | {"affine": affine}
        return MetaTensor(whole, meta=meta, applied_operations=image.applied_operations)


def same_view(affine: np.ndarray, shape: Sequence[int], spacing: Sequence[float]) -> tuple[torch.Tensor, list[int]]:
    """Affine and shape of a grid with this voxel size (mm), the same centre and, rounded, the same extent."""
    own = affine_to_spacing(affine)
    size = np.array(shape) * own / np.array(spacing)
    rounded = np.maximum(np.round(np.round(size, 3)), 1)  # 76.5 and 76.50001 are one size: headers are rounded
    step = np.round(np.array(spacing) / own, 5)  # in voxels: 3.33333 and 3.333333 mm give one image
    new = np.diag([*step, 1.0])
    new[:3, 3] = (np.array(shape) - 1 - step * (rounded - 1)) / 2
    return torch.as_tensor(affine @ new), rounded.astype(int).tolist()


def without_traces(image: torch.Tensor) -> torch.Tensor:
    """The image with 0 for what interpolation made of rounding errors, such as 1e-13. Shape: (C, H, W, D)."""
    return image.masked_fill_(image.abs() < TRACE * image.abs().amax((1, 2, 3), keepdim=True), 0)


class FillGapsd(MapTransform):
    """Sequences and a label that a patient lacks become volumes that say so, so that a batch can be stacked.

    Args:
        keys: what every sample of a batch must hold. Gaps take shape and type of ``image``; ``label`` becomes uint8.

    Shapes: (1, H, W, D) for each gap, (4, H, W, D) for the prediction of another program.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.keys:
            if key not in data:
                volume = data["image"][:1].repeat(len(CLASSES) if key == TARGETS else 1, 1, 1, 1)
                result[key] = fill(volume.byte() if key == "label" else volume)
            elif key == "label":
                result[key] = data[key].byte()
        return result


class ArgMaxd(MapTransform):
    """The class with the largest value, the first one in a tie: AsDiscreted(argmax=True), many times faster on a CPU.

    Shapes: (C, H, W, D) -> (1, H, W, D), uint8.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            classes = largest_class(result[key].as_subclass(torch.Tensor))
            result[key] = convert_to_dst_type(classes, result[key], dtype=torch.uint8)[0]
        return result


def largest_class(values: torch.Tensor) -> torch.Tensor:
    """(C, H, W, D) -> (1, H, W, D), uint8."""
    largest, index = values[0], torch.zeros_like(values[0], dtype=torch.uint8)
    for channel in range(1, len(values)):
        index.masked_fill_(values[channel] > largest, channel)
        largest = torch.maximum(largest, values[channel])
    return index[None]
