import numpy as np
import pytest

from scripts.data.volumes import count_pairs
from scripts.errors import UserError
from scripts.evaluation import pairs
from scripts.evaluation.meaning import to_classes
from scripts.evaluation.pairs import warn_of_meanings
from scripts.faults import FileFault
from scripts.labels import class_of_value


@pytest.mark.parametrize(
    "label_values, classes",
    [
        (None, [0, 1, 2, 3, 3]),
        ([0, 1, 2, 4], [0, 1, 2, 3]),
        ([0, 2, 1, 3], [0, 2, 1, 3]),
        ("brats2024", [0, 1, 2, 3, 0]),
    ],
)
def test_values_on_disk_become_network_classes_and_others_are_named(label_values, classes):
    class_of = class_of_value(label_values)
    voxels = np.array(sorted(class_of), np.float32)
    assert to_classes(voxels, class_of).tolist() == classes
    with pytest.raises(FileFault, match=r"unknown label values \[7, 9\]") as error:
        to_classes(np.append(voxels, [9, 7, 7]), class_of)
    assert error.value.remedy.startswith("expected [0, 1, 2")


def test_voxels_are_counted_by_class_in_both():
    table = count_pairs(np.array([[[0, 1], [3, 3]]], np.uint8), np.array([[[0, 2], [3, 1]]], np.uint8))
    assert {(int(row), int(column)) for row, column in np.argwhere(table)} == {(0, 0), (1, 2), (3, 3), (3, 1)}
    assert table.shape == (4, 4) and table.sum() == 4


def test_too_little_memory_ends_scoring_with_a_sentence(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(pairs, "read_volume", fail)
    with pytest.raises(UserError, match=r"a_seg\.nii needs more memory than is free: "):
        pairs.read_label_map(tmp_path / "a_seg.nii")


def counts(**voxels):
    """Voxels by predicted and true class, from ``p1t2=5``: 5 voxels that are predicted as 1 and are 2."""
    result = np.diag([9, 0, 0, 0])
    for key, count in voxels.items():
        result[int(key[1]), int(key[3])] = count
    return result


@pytest.mark.parametrize(
    "voxels, words",
    [
        (counts(p1t1=5, p2t2=5, p3t3=5, p3t0=1), []),
        (counts(p1t1=5, p1t2=5, p1t3=5), ["of the predictions holds ED or ET, but those of the truth do"]),
        (
            counts(p1t1=5, p2t1=5),
            ["the truth holds ED, but", "truth and predictions holds ET, so a perfect score"],
        ),
        (counts(p1t1=5, p1t0=1), ["of truth and predictions holds ED or ET"]),
        (counts(p1t1=5, p2t2=5, p3t3=5), ["the same in every voxel"]),
        (counts(), ["of truth and predictions holds NCR or ED or ET"]),
    ],
)
def test_what_the_values_of_all_cases_together_cannot_mean_is_warned_of(voxels, words, caplog):
    warn_of_meanings(voxels)
    assert len(caplog.messages) == len(words)
    assert all(word in message for word, message in zip(words, caplog.messages))
