import numpy as np

from scripts.report import pictures
from scripts.report.layers import Layer, Patient, errors
from scripts.report.pictures import plane


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


def test_the_centre_is_where_each_plane_shows_most_tumour():
    found = np.zeros((40, 30, 20), np.uint8)
    found[5:25, 10:30, 3] = 1
    found[20, :, 3:9] = 2
    patient = Patient("a", np.ones(found.shape), (slice(None),) * 3, np.eye(4), [Layer("Prediction", "classes", found)])
    axial, coronal, sagittal = (int((found > 0).sum(axes).argmax()) for axes in ((0, 1), (0, 2), (1, 2)))
    assert patient.centre == [sagittal, coronal, axial] and (sagittal, axial) == (20, 3)
    patient.layers.clear()
    patient.image[:, :, :5] = 0
    assert patient.centre == [0, 0, 5]


def test_only_the_slices_that_are_shown_are_coloured(monkeypatch):
    """And each picture shows what the same slices of the coloured volumes show."""
    found = np.zeros((8, 10, 12), np.uint8)
    found[2:6, 3:7, 5:9] = 2
    image = np.random.default_rng(0).random(found.shape) + 0.1
    layers = [Layer("Prediction", "classes", found), Layer("Uncertainty", "uncertainty", image / 2)]
    patient = Patient("a", image, (slice(None),) * 3, np.diag([1.0, 2.0, 1.0, 1.0]), layers)
    drawn, sizes = [], []
    monkeypatch.setattr(pictures, "encode", lambda planes: drawn.append([np.asarray(item) for item in planes]))
    colour = pictures.draw_layer
    monkeypatch.setattr(pictures, "draw_layer", lambda grey, layer: sizes.append(grey.size) or colour(grey, layer))
    pictures.draw_pictures(patient)
    assert sorted(sizes) == [80, 80, 96, 96, 120, 120]
    volumes = [pictures.grey_rgb(patient.grey), *(colour(patient.grey, layer) for layer in layers)]
    for planes, volume in zip(drawn, volumes, strict=True):
        for found_plane, axis in zip(planes, (2, 1, 0), strict=True):
            expected = plane(volume, axis, patient.centre[axis], patient.spacing)
            assert np.array_equal(found_plane, np.asarray(expected))
