import numpy as np

from scripts.report.mosaic import STEPS, errors, plane, slider_path


def test_errors_are_missed_false_or_of_another_class():
    found, real = np.array([0, 0, 2, 1, 3]), np.array([0, 2, 0, 3, 3])
    assert errors(found, real).tolist() == [0, 1, 2, 3, 0]


def test_planes_are_radiological_and_in_millimetres():
    volume = np.zeros((20, 10, 5, 3), np.uint8)  # right, front, up
    volume[15:, :, :] = 255  # the patient's right side
    volume[:, 8:, :, 0] = 255  # the front in red
    axial = np.asarray(plane(volume, 2, 2, np.array([1.0, 2.0, 4.0])))
    assert axial.shape[0] == axial.shape[1]  # 20 mm by 20 mm
    assert axial[-1, 2].tolist() == [255, 255, 255] and axial[-1, -1].tolist() == [0, 0, 0]
    assert axial[2, -1].tolist() == [255, 0, 0]
    sagittal = np.asarray(plane(volume, 0, 3, np.array([1.0, 2.0, 4.0])))
    assert sagittal[5, -1].tolist() == [255, 0, 0] and sagittal[5, 0].tolist() == [0, 0, 0]


def test_the_slider_goes_through_the_tumour_and_starts_where_most_of_it_is_seen():
    marked = np.zeros((40, 30, 20), bool)
    marked[5:25, 10:30, 3] = True
    shown = np.zeros_like(marked)
    shown[20] = True
    path, start = slider_path(marked, shown)
    assert path[0] == (5, 10, 3) and path[-1] == (24, 29, 3) and len(path) == STEPS
    assert path[start][0] == 20
