"""Seconds for a training case to come out of the loader, by cache, in the first and in later epochs."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from typing import Any

import numpy as np
from monai.data import DataLoader, Dataset
from monai.transforms import RandomizableTrait
from step import build_trainer
from torch.utils.data import ConcatDataset

from scripts.datalist import make_datalist
from scripts.summary import format_table

__all__ = ["data"]


COPIES = 10  # of every case in a later epoch, since augmentation is drawn now and then


def data(dataset_dir: str, size: int, repeats: int) -> dict[str, Any]:
    """Four sequences and the label; ``augmentation`` is what random transforms take in one process."""
    workers = min(8, os.cpu_count() or 1)
    rows = [["cache", "first epoch s/case", "later, median", "min", "max", "of it augmentation", f"{workers} workers"]]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        make_datalist(dataset_dir, f"{folder}/list.json", folds=2)
        for cache in ("memory", "disk", "none"):
            start = time.perf_counter()
            options = {"roi_size": [size] * 3, "cache": cache, "widths": [4, 4, 4, 4]}
            loader = build_trainer(folder, dataset_dir, **options).data_loader
            for _ in loader:
                pass
            first = (time.perf_counter() - start) / len(loader)
            later = [epoch_seconds(loader, 0) for _ in range(repeats)]
            random = augmentation_seconds(loader, repeats)
            shared = float(np.median([epoch_seconds(loader, workers) for _ in range(repeats)]))
            results[cache] = {"first": first, "later": later, "augmentation": random, "workers": {workers: shared}}
            values = (first, np.median(later), min(later), max(later), random, shared)
            rows.append([cache, *(f"{value:.3f}" for value in values)])
    title = (
        f"Loading a case, patches of {size}³, one process (the first epoch with the checks of every file), and workers"
    )
    print(f"\n{title}\n\n{format_table(rows)}", flush=True)
    return {"title": title, "results": results}


def epoch_seconds(loader: DataLoader, workers: int) -> float:
    """Seconds a case of an epoch of COPIES of the loader's cases, from its first batch on."""
    many = DataLoader(ConcatDataset([loader.dataset] * COPIES), batch_size=1, num_workers=workers)
    batches = iter(many)
    next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - start) / (len(many) - 1)


def augmentation_seconds(loader: DataLoader, repeats: int) -> float:
    """Mean seconds that random transforms other than the choice of the patch take for a case."""
    transforms = loader.dataset.transform.transforms
    first = next(i for i, transform in enumerate(transforms) if isinstance(transform, RandomizableTrait))
    entry = Dataset(loader.dataset.data[:1], transforms[: first + 1])[0][0]
    seconds = []
    for _ in range(4 * repeats):
        case = copy.copy(entry)
        start = time.perf_counter()
        for transform in transforms[first + 1 :]:
            case = transform(case)
        seconds.append(time.perf_counter() - start)
    return float(np.mean(seconds))
