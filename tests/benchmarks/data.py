"""Seconds for a training case to come out of the loader, by cache, in the first and in later epochs."""

from __future__ import annotations

import copy
import tempfile
import time
from typing import Any

import numpy as np
from monai.data import DataLoader, Dataset
from monai.transforms import RandomizableTrait
from step import build_trainer

from scripts.datalist import make_datalist
from scripts.summary import format_table

__all__ = ["data"]


def data(dataset_dir: str, size: int, repeats: int) -> dict[str, Any]:
    """Four sequences and the label in one process; ``augmentation`` is what random transforms take of it."""
    rows = [["cache", "first epoch s/case", "later, median", "min", "max", "of it augmentation"]]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        make_datalist(dataset_dir, f"{folder}/list.json", folds=2)
        for cache in ("memory", "disk", "none"):
            start = time.perf_counter()
            options = {"roi_size": [size] * 3, "cache": cache, "widths": [4, 4, 4, 4]}
            loader = build_trainer(folder, dataset_dir, **options).data_loader
            seconds = []
            for _ in range(1 + repeats):
                for _ in loader:
                    pass
                seconds.append((time.perf_counter() - start) / len(loader))
                start = time.perf_counter()
            first, later = seconds[0], seconds[1:]
            random = augmentation_seconds(loader, repeats)
            results[cache] = {"first": first, "later": later, "augmentation": random}
            values = (first, np.median(later), min(later), max(later), random)
            rows.append([cache, *(f"{value:.3f}" for value in values)])
    title = f"Loading a case, patches of {size}³, one process (the first epoch with the checks of every file)"
    print(f"\n{title}\n\n{format_table(rows)}", flush=True)
    return {"title": title, "results": results}


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
