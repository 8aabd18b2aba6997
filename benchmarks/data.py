"""Seconds for a training case to come out of the loader, by cache, in the first and later epochs; and to augment it."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from torch.utils.data import ConcatDataset

from scripts.data.make_datalist import make_datalist
from scripts.files import format_table
from step import build_trainer

COPIES = {"memory": 40, "disk": 40, "none": 4}  # of every case in a later epoch, so that starting it counts little


def data(dataset_dir: str, size: int, repeats: int) -> dict[str, Any]:
    """Four sequences and the label. The trainer, not the loader, augments: on its own device."""
    workers = min(8, os.cpu_count() or 1)
    columns = ["first epoch s/case", "later, median", "min", "max", f"{workers} workers", "then augmentation"]
    rows = [["cache", *columns]]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        make_datalist(dataset_dir, f"{folder}/list.json", folds=2)
        for cache in ("memory", "disk", "none"):
            start = time.perf_counter()
            options = {"roi_size": [size] * 3, "cache": cache, "widths": [4, 4, 4, 4], "batch_size": 1}
            trainer = build_trainer(folder, dataset_dir, **options)
            loader = trainer.data_loader
            for _ in loader:
                pass
            first = (time.perf_counter() - start) / len(loader)
            later = [epoch_seconds(loader, 0, COPIES[cache]) for _ in range(repeats)]
            shared = float(np.median([epoch_seconds(loader, workers, COPIES[cache]) for _ in range(repeats)]))
            augmentation = augmentation_seconds(trainer, repeats)
            values = (first, np.median(later), min(later), max(later), shared, augmentation)
            results[cache] = dict(zip(columns, map(float, values)))
            rows.append([cache, *(f"{value:.3f}" for value in values)])
    title = f"Loading a case, patches of {size}³ (first epoch with the checks of every file), and augmenting it"
    print(f"\n{title}\n\n{format_table(rows)}", flush=True)
    return {"title": title, "results": results}


def epoch_seconds(loader: DataLoader, workers: int, copies: int) -> float:
    """Seconds a case of an epoch of copies of the loader's cases, from its first batch on."""
    context = "fork" if workers else None  # as in a run on Linux; this process's default is to spawn
    dataset = ConcatDataset([loader.dataset] * copies)
    many = DataLoader(dataset, batch_size=1, num_workers=workers, multiprocessing_context=context)
    batches = iter(many)
    next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - start) / (len(many) - 1)


def augmentation_seconds(trainer: SupervisedTrainer, repeats: int) -> float:
    """Mean seconds to bring a case to the device and augment it there; over many, since changes are drawn rarely."""
    batches = list(trainer.data_loader)
    trainer.prepare_batch(batches[0], trainer.state.device)
    wait_for_device()
    start = time.perf_counter()
    for turn in range(10 * repeats):
        trainer.prepare_batch(batches[turn % len(batches)], trainer.state.device)
    wait_for_device()
    return (time.perf_counter() - start) / (10 * repeats)


def wait_for_device() -> None:
    """Wait until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
