"""Datasets that keep the result of deterministic transforms, so that NIfTI is decoded once."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from pickle import DEFAULT_PROTOCOL
from typing import Any

import monai
import numpy as np
import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, Transform
from monai.transforms.utility.array import convert_to_tensor
from monai.utils.enums import TraceKeys

from scripts.errors import UserError
from scripts.files import check_folder, replacing, sha256

# what the history of a MetaTensor holds besides tensors: names, and arrays of numbers
SAFE = [
    TraceKeys,
    np.ndarray,
    np.dtype,
    np.zeros(0).__reduce__()[0],
    *{type(np.dtype(code)) for code in f"{np.typecodes['AllInteger']}{np.typecodes['Float']}?"},
]


class Compact(Transform):
    """Copy tensors, because a cropped tensor is a view of the whole volume, which would be cached with it."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {
            key: value.clone(memory_format=torch.contiguous_format) if isinstance(value, torch.Tensor) else value
            for key, value in data.items()
        }


class DiskCache(PersistentDataset):
    """MONAI's PersistentDataset, whose files are written whole or not at all, and made again if they are damaged.

    Args:
        track_meta: keep affine and history of each image, by which evaluation brings label maps back to its grid.
        arguments: as for PersistentDataset.

    Raises:
        UserError: if a file cannot be written, such as on a full disk.
    """

    def __init__(self, *arguments: Any, track_meta: bool) -> None:
        check_folder(arguments[2], "cache_dir")
        super().__init__(*arguments)
        self.track_meta = track_meta

    def _cachecheck(self, item_transformed: dict[str, Any]) -> Any:
        name = self.hash_func(item_transformed).decode() + self.transform_hash + "_meta" * self.track_meta
        path = self.cache_dir / f"{name}.pt"
        with suppress(Exception), torch.serialization.safe_globals(SAFE):  # damaged files fail in many ways
            return torch.load(path, weights_only=True)
        item = self._pre_transform(deepcopy(item_transformed))
        with replacing(path) as partial, open(partial, "wb") as file:
            torch.save(convert_to_tensor(item, convert_numeric=False, track_meta=self.track_meta), file)
        return item


def cached_dataset(
    data: Sequence[dict],
    preprocessing: Compose,
    patches: Compose | None = None,
    cache: str = "memory",
    cache_dir: str = "cache",
) -> Dataset:
    """A MONAI dataset whose transforms up to the first random one are cached.

    Args:
        data: entries with paths.
        preprocessing: the first transforms.
        patches: the transforms after these, deterministic ones first; None for validation.
        cache: "memory", "disk", or "none".
        cache_dir: folder of the disk cache. Other entries, files, transforms or versions of their code get other cache
            files.

    Raises:
        UserError: if there are no entries.
    """
    if not data:
        raise UserError(
            "there are no patients to train on, or none to validate on: pass --dataset_dir and --datalist, choose "
            "another --fold, or fix the cases that were left out."
        )
    transform = Compose([*preprocessing.transforms, Compact(), *(patches.transforms if patches else ())])
    if cache == "memory":
        return CacheDataset(data, transform, num_workers=1, progress=False, copy_cache=False)
    if cache == "disk":
        arguments = (data, transform, cache_dir, hash_entry, "pickle", DEFAULT_PROTOCOL, hash_transforms)
        return DiskCache(*arguments, track_meta=patches is None)
    return Dataset(data, transform)


def hash_transforms(transforms: Sequence[Transform]) -> bytes:
    """Hash of transforms, their source files and MONAI's version: after a change of code they are applied again."""
    sources = [inspect.getsourcefile(type(transform)) for transform in transforms]
    code = [sha256(source) for source in sources if source]
    return pickle_hashing({"transforms": transforms, "code": code, "monai": monai.__version__})


def hash_entry(entry: Mapping[str, Any]) -> bytes:
    """Hash of the entry and of its files' sizes and times, so that a file that was replaced is read again."""
    values = [value for item in entry.values() for value in (item if isinstance(item, list) else [item])]
    files = [Path(value) for value in values if isinstance(value, str) and Path(value).is_file()]
    stamps = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return pickle_hashing({"entry": sorted(map(str, entry.items())), "files": stamps})
