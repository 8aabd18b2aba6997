"""Modality dropout, the cheap rival of distillation: one network of all sequences that must do without some of them.

arms.py trains it (arms.yaml, modality_dropout) and scores it with T1ce alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform


class RandDropSequencesd(RandomizableTransform, MapTransform):
    """Turns channels other than ``kept`` into zeros: all in a share ``alone`` of the images, else each with even odds.

    Shapes: each key (C, H, W, D) -> (C, H, W, D), changed in a copy.
    """

    def __init__(self, keys: KeysCollection, kept: int, alone: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self)
        self.kept, self.alone = kept, alone

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = image = result[key].clone()
            alone = self.R.random() < self.alone
            for channel in range(len(image)):
                if channel != self.kept and (self.R.random() < 0.5 or alone):
                    image[channel] = 0
        return result
