"""From class probabilities in the network's grid to classes in the grid of the image's file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialResample

from scripts.data.transforms import SLAB, largest_class

SURE = 0.51  # more than half, rounding included
ROUNDING = 1e-6


class ClassesInImageGridd(MapTransform):
    """The class of each voxel of the image's file, from class probabilities in the grid of the preprocessed image.

    The result is that of MONAI's Invertd and an argmax. Only the box in which a tumour class may win is interpolated:
    where background has more than half in all neighbours, it has more than half in their mean.

    Args:
        keys: class probabilities; background is the first class. The metadata of ``image`` hold the grid of its file.

    Shapes: (C, h, w, d) -> (1, H, W, D), uint8.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)
        self.resample = SpatialResample(mode="bilinear", padding_mode="border", dtype=torch.float64)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result, image = dict(data), data["image"]
        affine = torch.as_tensor(image.meta["original_affine"], dtype=torch.float64).cpu()
        shape = [int(length) for length in image.meta["spatial_shape"]]
        for key in self.key_iterator(result):
            probabilities = result[key].as_subclass(torch.Tensor)
            classes = torch.zeros((1, *shape), dtype=torch.uint8, device=probabilities.device)
            unsure = (probabilities[0] <= SURE).nonzero()
            if len(unsure):
                first, last = unsure.amin(dim=0), unsure.amax(dim=0) + 2  # in the volume padded by one voxel
                padded = F.pad(probabilities, [1] * 6)  # outside of what the network saw all probabilities are 0
                box = padded[(slice(None), *(slice(int(a), int(b) + 1) for a, b in zip(first, last)))]
                own = moved(image.affine.cpu().double(), first.cpu() - 1)
                self.fill(classes, MetaTensor(box, affine=own), affine)
            result[key] = MetaTensor(classes, meta=image.meta | {"affine": affine})
        return result

    def fill(self, classes: torch.Tensor, box: MetaTensor, affine: torch.Tensor) -> None:
        """Write the classes of a box of probabilities into a volume of this affine, some slices at a time."""
        for start, size in slabs(extent(box, affine, classes.shape[1:])):
            values = self.resample(box, dst_affine=moved(affine, start), spatial_size=size)
            values[0] += ROUNDING  # just outside of what the network saw, rounding alone made tumour
            part = (slice(a, a + length) for a, length in zip(start, size))
            classes[(slice(None), *part)] = largest_class(values.as_subclass(torch.Tensor))


def moved(affine: torch.Tensor, voxels: Sequence[int] | torch.Tensor) -> torch.Tensor:
    """The affine of a part of a volume that begins at this voxel."""
    part = affine.clone()
    part[:3, 3] += affine[:3, :3] @ torch.as_tensor(voxels, dtype=affine.dtype)
    return part


def extent(box: MetaTensor, affine: torch.Tensor, shape: Sequence[int]) -> list[tuple[int, int]]:
    """First voxel and number of voxels along each axis of a volume of this affine, of those that lie in the box."""
    corners = torch.tensor([*itertools.product(*((0, length - 1) for length in box.shape[1:]))], dtype=affine.dtype)
    points = torch.cat([corners, torch.ones(8, 1, dtype=affine.dtype)], dim=1)
    voxels = (torch.linalg.solve(affine, box.affine.to(affine)) @ points.T)[:3]
    first = voxels.amin(dim=1).floor().int().tolist()
    last = voxels.amax(dim=1).ceil().int().tolist()
    ranges = [range(max(a, 0), min(b, length - 1) + 1) for a, b, length in zip(first, last, shape)]
    return [(covered.start, len(covered)) for covered in ranges]


def slabs(box: Sequence[tuple[int, int]]) -> Iterator[tuple[list[int], list[int]]]:
    """Start and size of parts along the first axis: in one piece, 512 x 512 x 400 voxels take 9 GiB."""
    (first, slices), *others = box
    start, size = zip(*others)
    step = max(1, SLAB // max(1, math.prod(size)))
    for number in range(0, slices, step):
        yield [first + number, *start], [min(step, slices - number), *size]
