"""Datasets that keep the result of deterministic transforms, so that NIfTI is decoded once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, Transform

from scripts.errors import UserError

__all__ = ["cached_dataset"]


class Compact(Transform):
    """Copy tensors, because a cropped tensor is a view of the whole volume, which would be cached with it."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {
            key: value.clone(memory_format=torch.contiguous_format) if isinstance(value, torch.Tensor) else value
            for key, value in data.items()
        }


def cached_dataset(
    data: Sequence[dict],
    preprocessing: Compose,
    patches: Compose | None = None,
    cache: str = "memory",
    cache_dir: str = "cache",
    num_workers: int = 1,
) -> Dataset:
    """A MONAI dataset whose transforms up to the first random one are cached.

    Args:
        data: entries with paths.
        preprocessing: the first transforms.
        patches: the transforms after these, deterministic ones first; None for validation.
        cache: "memory", "disk", or "none".
        cache_dir: folder of the disk cache. Other entries, files or transforms get other cache files.
        num_workers: threads that fill the memory cache.

    Raises:
        UserError: for another value of cache, or if there are no entries.
    """
    if cache not in ("memory", "disk", "none"):
        raise UserError(f'cache is {cache!r}, expected "memory", "disk" or "none".')
    if not data:
        raise UserError(
            "there are no patients: pass --dataset_dir and --datalist, or fix the cases that were left out."
        )
    transform = Compose([*preprocessing.transforms, Compact(), *(patches.transforms if patches else ())])
    if cache == "memory":
        return CacheDataset(data, transform, num_workers=num_workers, progress=False, copy_cache=False)
    if cache == "disk":
        return PersistentDataset(data, transform, cache_dir, hash_entry, hash_transform=pickle_hashing)
    return Dataset(data, transform)


def hash_entry(entry: Mapping[str, Any]) -> bytes:
    """Hash of the entry and of its files' sizes and times, so that a file that was replaced is read again."""
    values = [value for item in entry.values() for value in (item if isinstance(item, list) else [item])]
    files = [Path(value) for value in values if isinstance(value, str) and Path(value).is_file()]
    stamps = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return pickle_hashing({"entry": sorted(map(str, entry.items())), "files": stamps})
