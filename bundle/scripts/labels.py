"""Classes, regions and sequences: the only place that says what a number in a label means."""

from __future__ import annotations

SEQUENCES = ("flair", "t1", "t1ce", "t2")

# Network classes: the index is the value in training.
CLASSES = ("background", "NCR", "ED", "ET")

# Values on disk of the network classes, in their order: BraTS up to 2021, BraTS from 2023, MSD Task01.
BRATS_2018, BRATS_2023, MSD = (0, 1, 2, 4), (0, 1, 2, 3), (0, 2, 1, 3)

# Regions in the channel order of MONAI's ConvertToMultiChannelBasedOnBratsClassesd, as (name, network classes).
REGIONS = (("TC", (1, 3)), ("WT", (1, 2, 3)), ("ET", (3,)))
REGION_NAMES = tuple(name for name, _ in REGIONS)
TABLE_ORDER = ("WT", "TC", "ET")  # of regions in tables and figures

# Endings of file names: BraTS 2018-2021, 2023 and later, and variants met in the wild.
ENDINGS = {
    "flair": "flair", "t2f": "flair",
    "t1": "t1", "t1n": "t1",
    "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce",
    "t2": "t2", "t2w": "t2",
    "seg": "label", "segm": "label",
}  # fmt: skip
ENDINGS_2023 = ("t1n", "t1c", "t2f", "t2w")
MAP_ENDINGS = ("entropy", "variance")  # of what inference writes beside a label map
