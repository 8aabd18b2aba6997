import numpy as np
import pytest

from scripts.evaluation.pairs import class_of_value, to_classes


@pytest.mark.parametrize(
    "label_values, classes",
    [(None, [0, 1, 2, 3, 3, 0]), ([0, 1, 2, 4], [0, 1, 2, 0, 3, 0]), ([0, 2, 1, 3], [0, 2, 1, 3, 0, 0])],
)
def test_values_on_disk_become_network_classes_and_unknown_ones_background(label_values, classes):
    voxels = np.array([0, 1, 2, 3, 4, 7], np.float32)
    assert to_classes(voxels, class_of_value(label_values)).tolist() == classes
