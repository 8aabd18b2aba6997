"""Classes in the image's own grid are those of MONAI's Invertd and an argmax over the whole volume."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from conftest import BUNDLE
from scripts.inference import image_grid
from scripts.inference.image_grid import ClassesInImageGridd

TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])  # oblique
AXES = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "turned": np.eye(3)[[1, 2, 0]] * [1, -1, 1],
    "oblique": TURN,
}


def preprocessing(spacing):
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.yaml"))
    parser.update({"spacing": spacing})
    return parser.get_parsed_content("preprocessing")


def brain(path, axes, voxel):
    """A file with a brain that reaches one border."""
    voxels = np.zeros((22, 27, 19), np.float32)
    voxels[3:20, 5:27, 2:17] = np.random.default_rng(0).uniform(50, 90, (17, 22, 15))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = AXES[axes] * voxel, (-31.3, 12.0, 7.7)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def blobs(shape, where):
    """Smooth class probabilities (4, h, w, d), with tumour at the corner, in the middle, nowhere or everywhere."""
    logits = torch.randn(1, 4, *(length // 4 + 1 for length in shape), generator=torch.Generator().manual_seed(1))
    logits = torch.nn.functional.interpolate(3 * logits, size=list(shape), mode="trilinear")[0]
    grids = torch.meshgrid(*(torch.linspace(-1, 1, length) for length in shape), indexing="ij")
    centre = {"corner": 1.0, "middle": 0.1}.get(where, 0.0)
    distance = sum((grid - centre) ** 2 for grid in grids)
    logits[0] += (
        {"nowhere": 40, "everywhere": -40}.get(where, 0)
        if where in ("nowhere", "everywhere")
        else 30 * (distance - 0.3)
    )
    return logits.softmax(dim=0)


@pytest.mark.parametrize("where", ["corner", "middle", "nowhere", "everywhere"])
@pytest.mark.parametrize(
    ("axes", "voxel", "spacing"),
    [
        ("RAS", (1, 1, 1), [2, 2, 2]), ("LPS", (0.7, 0.7, 3.1), [2, 2, 2]), ("turned", (1, 1, 1.5), [2, 2, 2]),
        ("oblique", (1, 1, 1), [2, 2, 2]), ("turned", (1, 1, 2), None), ("oblique", (2.2, 2.2, 2), [1, 1, 1]),
    ],
)  # fmt: skip
def test_classes_are_those_of_the_inverted_probabilities(axes, voxel, spacing, where, tmp_path, monkeypatch):
    brain(tmp_path / "a_t1ce.nii.gz", axes, voxel)
    transform: Compose = preprocessing(spacing)
    data = transform({"image": str(tmp_path / "a_t1ce.nii.gz")})
    probabilities = blobs(data["image"].shape[1:], where)
    data["pred"] = MetaTensor(probabilities, meta=data["image"].meta)
    whole = Invertd("pred", transform, "image", nearest_interp=False)(dict(data))["pred"]
    monkeypatch.setattr(image_grid, "SLAB", 900)  # voxels: several parts
    found = ClassesInImageGridd("pred")(data)["pred"]
    assert found.shape == (1, 22, 27, 19) and found.dtype == torch.uint8
    assert torch.allclose(found.affine, whole.affine.to(found.affine), atol=1e-5)
    two = whole.as_tensor().topk(2, dim=0).values
    clear = (two[0] - two[1] > 1e-4) | (two[0] == 0)  # elsewhere rounding decides
    assert torch.equal(found.as_tensor()[0][clear], whole.as_tensor().argmax(dim=0)[clear].byte())
    assert clear.float().mean() > 0.99 and bool(found.any()) == (where != "nowhere")


def test_only_the_box_of_a_tumour_is_interpolated(tmp_path, monkeypatch):
    brain(tmp_path / "a_t1ce.nii.gz", "RAS", (1, 1, 1))
    data = preprocessing([2, 2, 2])({"image": str(tmp_path / "a_t1ce.nii.gz")})
    data["pred"] = torch.zeros(4, *data["image"].shape[1:])
    data["pred"][0], data["pred"][0, 3:5, 4, 4], data["pred"][3, 3:5, 4, 4] = 1, 0, 1
    step, sizes = ClassesInImageGridd("pred"), []
    resample = step.resample
    step.resample = lambda *args, **options: sizes.append(options["spatial_size"]) or resample(*args, **options)
    assert int(step(data)["pred"].sum()) > 0
    assert len(sizes) == 1 and max(sizes[0]) <= 8  # four voxels of 1 mm, and what lies within 2 mm of them
