"""Calibration of the probabilities: are 80% of the voxels with a probability of 0.8 tumour?"""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from scripts.evaluation.calibration_table import BINS, bin_row
from scripts.files import write_table
from scripts.labels import REGIONS, TABLE_ORDER


class Calibration:
    """An ignite handler that writes ``calibration.csv``: how reliable each region's probability is, over all voxels.

    Columns: region, bin, voxels, probability (mean), frequency (share of voxels that are in the region).

    Args:
        output_dir: where to write.

    Needs ``probabilities`` (C, H, W, D) and ``label`` (1, H, W, D) in each item of the engine's output; voxels whose
    probabilities are all 0 lie outside the crop and do not count.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = output_dir
        self.counts = torch.zeros(len(REGIONS), 3, BINS, dtype=torch.float64)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def __call__(self, engine: Engine) -> None:
        for item in engine.state.output:
            inside = item["probabilities"].sum(dim=0) > 0
            probabilities, label = item["probabilities"][:, inside], item["label"][0][inside]  # (C, N), (N,)
            for index, (_, classes) in enumerate(REGIONS):
                truth = torch.isin(label, torch.tensor(classes).to(label))
                self.counts[index] += bin_counts(probabilities[list(classes)].sum(dim=0), truth).cpu()

    def write(self, engine: Engine) -> None:
        counts = dict(zip((name for name, _ in REGIONS), idist.all_reduce(self.counts)))
        rows = [
            bin_row(region, index, *sums)
            for region in TABLE_ORDER
            for index, sums in enumerate(counts[region].T.tolist())
        ]
        if idist.get_rank() == 0:
            write_table(Path(self.output_dir, "calibration.csv"), rows)


def bin_counts(probability: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Voxels, sum of probabilities and true voxels in each of 10 equal bins. Shapes: (N,), (N,) bool -> (3, 10)."""
    probability = torch.as_tensor(probability.as_subclass(torch.Tensor), dtype=torch.float64).clamp(0, 1)
    index = (probability * BINS).long().clamp(max=BINS - 1)
    weights = [torch.ones_like(probability), probability, truth.as_subclass(torch.Tensor).to(probability)]
    return torch.stack([torch.bincount(index, weight, minlength=BINS) for weight in weights])
