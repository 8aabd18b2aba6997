"""Classes, regions and sequences. Only this file says what a number in a label means."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from scripts.errors import UserError

SEQUENCES = ("flair", "t1", "t1ce", "t2")
SEQUENCE_NAMES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}

TARGETS = "targets"  # what another program predicted, as a teacher

# Network classes: the index is the value in training.
CLASSES = ("background", "NCR", "ED", "ET")

# Values on disk of the network classes, in their order: BraTS up to 2021, BraTS from 2023, MSD Task01.
BRATS_2018, BRATS_2023, MSD = (0, 1, 2, 4), (0, 1, 2, 3), (0, 2, 1, 3)

# Network class of each value on disk, by the name of its edition. brats2024 is glioma after treatment, whose 4 is the
# resection cavity and no tumour. nnU-Net's BraTS tasks count as MSD does.
LABEL_VALUES = {
    **{"brats2018": dict(zip(BRATS_2018, range(4))), "brats2023": dict(zip(BRATS_2023, range(4)))},
    **{"brats2024": {0: 0, 1: 1, 2: 2, 3: 3, 4: 0}},
    **{"msd": dict(zip(MSD, range(4))), "nnunet": dict(zip(MSD, range(4)))},
}
BRATS_VALUES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 3}  # where no edition is named: those before 2023 hold 4, later ones 3
VALUE_NAMES = f"{', '.join(LABEL_VALUES)}, or four numbers"  # what label_values may be
WHICH_IS_ET = "nothing tells whether 4 is ET or, as in brats2024, the resection cavity"
OTHER_TUMOURS = re.compile(r"BraTS-PED-\d+", re.IGNORECASE)  # names of cases whose values mean something else

# Regions in the channel order of MONAI's ConvertToMultiChannelBasedOnBratsClassesd, as (name, network classes).
REGIONS = (("TC", (1, 3)), ("WT", (1, 2, 3)), ("ET", (3,)))
REGION_NAMES = tuple(name for name, _ in REGIONS)
TABLE_ORDER = ("WT", "TC", "ET")  # of regions in tables and figures

# Endings of file names: BraTS 2018-2021, BraTS 2023 and later, and common variants. folders/schemes.py has the others,
# each of one data set.
ENDINGS = {
    "flair": "flair", "t2f": "flair",
    "t1": "t1", "t1n": "t1", "t1w": "t1",
    "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce", "ct1": "t1ce",
    "t2": "t2", "t2w": "t2",
    "seg": "label", "segm": "label", "tumor_segmentation": "label", "tumormask": "label",
}  # fmt: skip
ENDINGS_2023 = ("t1n", "t1c", "t2f", "t2w")
PROBABILITIES = "probabilities"
MAP_ENDINGS = ("entropy", "variance", PROBABILITIES)  # of files that inference writes beside a label map

# How to score a region that is empty in truth or prediction.
NO_OVERLAP_MM = 373.13  # BraTS: HD95 if one mask is empty, the diagonal of a 240 x 240 x 155 volume of 1 mm
EMPTY_RULES = {
    "brats": "where a region is empty in truth and prediction, Dice is 1 and the distance 0 mm; where only one of them "
    f"is empty, Dice is 0 and the distance {NO_OVERLAP_MM} mm",
    "exclude": "where a region is empty in truth or prediction, the patient is left out of its means, also if the "
    "region was missed completely",
}

# Colours that readers with any colour vision can tell apart (Okabe and Ito 2008; Tol 2021), one meaning in a figure.
SERIES_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # runs of a figure
CLASS_TITLES = {1: "Necrotic core", 2: "Oedema", 3: "Enhancing tumour"}  # by network class
CLASS_COLOURS = {1: "#0072B2", 2: "#E69F00", 3: "#CC79A7"}  # by network class
ERROR_COLOURS = {1: "#56B4E9", 2: "#D55E00", 3: "#F0E442"}  # missed tumour, false tumour, tumour of another class
REGION_COLOURS = {"WT": "#222222", "TC": "#8C564B", "ET": "#CC79A7"}
SEQUENCE_COLOURS = {"flair": "#009E73", "t1": "#332288", "t1ce": "#882255", "t2": "#999933"}
OTHER_COLOURS = ("#666666", "#B0B0B0", "#333333", "#C0A080")  # of what is neither a region nor a sequence


def sequence_named(name: object) -> str | None:
    """The sequence that a channel's name means, such as T1Gd or T2-w; None for other names, such as T1+ or T2*."""
    role = ENDINGS.get(re.sub(r"[\s_.-]", "", str(name).lower()))
    return role if role in SEQUENCES else None


def unclear_meaning(values: Collection[int], name: str, modern: bool) -> str:
    """Why nobody can tell what the values in a label mean where no edition is named; "" if the values tell.

    Args:
        values: in the label.
        name: of its case or file.
        modern: whether the label is of BraTS 2023 or later by its name, where ET is 3.
    """
    if match := OTHER_TUMOURS.search(name):
        return f"is of {match[0].rpartition('-')[0]}, whose label values have a meaning that is not known here"
    if 4 in values and (modern or 3 in values):
        return f"holds {'3 and 4' if 3 in values else '4 in a file named as from 2023 on'}: {WHICH_IS_ET}"
    return ""


def class_of_value(label_values: str | Sequence[int] | None, key: str = "label_values") -> Mapping[int, int]:
    """Network class of each value on disk, from an edition's name or the list of all values; by default of any BraTS.

    Raises:
        UserError: for another name or list; the message begins with the key.
    """
    if label_values is None:
        return BRATS_VALUES
    if isinstance(label_values, str) and label_values in LABEL_VALUES:
        return LABEL_VALUES[label_values]
    values = list(label_values) if isinstance(label_values, (list, tuple)) else []
    if not len(set(values)) == len(values) == len(CLASSES) or not all(isinstance(value, int) for value in values):
        raise UserError(
            f"{key} is {label_values!r}, expected one of {sorted(LABEL_VALUES)}, or four numbers, the values of "
            f'{", ".join(CLASSES)}, such as "[0,1,2,3]".'
        )
    return {value: index for index, value in enumerate(values)}


def lenient_values(label_values: str | Sequence[int] | None) -> str | Sequence[int] | None:
    """The label values; None, with which 3 or 4 is ET, for those up to BraTS 2021: editors such as 3D Slicer save 3."""
    return None if label_values in ("brats2018", list(BRATS_2018)) else label_values
