"""The authors' training step as their code does it, in plain PyTorch, written from the specification: the peer to beat.

Every step reads the volumes as float64 and resizes them, trains teachers and student in two backward passes with
per-slice losses and a KD term summed over voxels, and scores four networks on five regions slice by slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from scripts.method.fusion import CooperativeFusion
from scripts.method.resunet import ResUNet

SEQUENCES = ("t1ce", "flair", "t2", "t1")
REGIONS = ((1, 2, 3), (1, 3), (3,), (2,), (1,))
TEMPERATURE = 20.0


class PlainLoop:
    """A call trains on the next case.

    Args:
        cases: folders of patients, BraTS names.
        size: edge of the cube that volumes are resized to.
        widths: of every network.
    """

    def __init__(self, cases: Sequence[Path], size: int, widths: Sequence[int], device: torch.device) -> None:
        torch.manual_seed(0)
        self.cases, self.size, self.device, self.turn = list(cases), size, device, 0
        self.networks = nn.ModuleList([ResUNet(1, 4, widths, deep_supervision=int(i == 0)) for i in range(4)]).to(
            device
        )
        self.features: list[torch.Tensor] = []
        for teacher in list(self.networks)[1:]:
            teacher.decoder2.register_forward_hook(lambda _, __, output: self.features.append(output))
        self.fusion = CooperativeFusion({name: [widths[1]] for name in SEQUENCES[1:]}).to(device)
        student, *teachers = self.networks
        self.student_optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
        others = [p for network in (*teachers, self.fusion) for p in network.parameters()]
        self.teacher_optimizer = torch.optim.Adam(others, lr=1e-4)

    def load(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        folder = self.cases[self.turn % len(self.cases)]
        self.turn += 1
        images = [self.read(folder, name) for name in SEQUENCES]
        label = self.read(folder, "seg").long()
        return images, torch.where(label == 4, 3, label)

    def read(self, folder: Path, name: str) -> torch.Tensor:
        volume = nib.load(next(folder.glob(f"*_{name}.nii.gz"))).get_fdata()  # float64
        volume = torch.from_numpy(np.ascontiguousarray(volume))[None, None].to(self.device)
        return F.interpolate(volume, (self.size,) * 3, mode="nearest").float()

    def __call__(self) -> None:
        images, label = self.load()
        self.features.clear()
        self.networks.train()
        teachers = [network(image) for network, image in zip(list(self.networks)[1:], images[1:])]
        fused = self.fusion({name: [feature] for name, feature in zip(SEQUENCES[1:], self.features)})[0]
        half = label[:, :, ::2, ::2, ::2]
        teacher_loss = sum(segmentation(t, label) for t in teachers) + 0.08 * segmentation(fused, half)
        self.teacher_optimizer.zero_grad()
        teacher_loss.backward()
        self.teacher_optimizer.step()
        student, student_half = self.networks[0](images[0])
        loss = 0.75 * segmentation(student, label)
        loss = loss + sum(0.05 * soft_target(student, t.detach()) for t in teachers)
        loss = loss + 0.1 * (0.7 * segmentation(student_half, half) + 0.3 * soft_target(student_half, fused.detach()))
        self.student_optimizer.zero_grad()
        loss.backward()
        self.student_optimizer.step()
        for logits in (student, *teachers):
            scores(logits.detach(), label)


def segmentation(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Dice, Jaccard and cross-entropy, each with its own softmax and one-hot, by slice of the last axis."""
    truth = F.one_hot(label[:, 0], 4).movedim(-1, 1).float()
    first = torch.softmax(logits, 1)
    dice = 1 - (2 * (first * truth).sum((2, 3)) / (first.sum((2, 3)) + truth.sum((2, 3)) + 1e-7)).mean()
    second, again = torch.softmax(logits, 1), F.one_hot(label[:, 0], 4).movedim(-1, 1).float()
    both = (second * again).sum((2, 3))
    jaccard = 1 - (both / (second.sum((2, 3)) + again.sum((2, 3)) - both + 1e-7)).mean()
    return (dice + jaccard + F.cross_entropy(logits, label[:, 0])) / 3


def soft_target(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL summed over voxels, times the temperature."""
    log_student = F.log_softmax(student / TEMPERATURE, 1)
    return TEMPERATURE * F.kl_div(log_student, F.softmax(teacher / TEMPERATURE, 1), reduction="batchmean")


def scores(logits: torch.Tensor, label: torch.Tensor) -> list[float]:
    """Dice of five regions, slice by slice, each read back to the CPU."""
    predicted = logits.argmax(1)[0]
    means = []
    for classes in REGIONS:
        values = torch.tensor(classes, device=label.device)
        found, real = torch.isin(predicted, values), torch.isin(label[0, 0], values)
        slices = []
        for index in range(found.shape[0]):
            total = (found[index].sum() + real[index].sum()).item()
            slices.append(2 * (found[index] & real[index]).sum().item() / total if total else 1.0)
        means.append(sum(slices) / len(slices))
    return means
