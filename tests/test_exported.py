"""The student as MONAI exports it, through torch.jit and onnxruntime, against the eager network."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from conftest import BUNDLE, real_data
from scripts.errors import UserError
from scripts.inference.exported import load_exported
from scripts.method.resunet import ResUNet
from scripts.method.weights import load_weights

pytestmark = pytest.mark.zoo
CPU = torch.device("cpu")
FILES = ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.yaml"]
EXPORTS = {
    "ts": ["ckpt_export", "--net_id", "network_def", "--ckpt_file", "models/model.pt", *FILES],
    "onnx": ["onnx_export", "--args_file", "configs/onnx_export.json"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(params=EXPORTS)
def exported(request, folder, command):
    """The shipped weights, exported by the command of docs/README.md."""
    pytest.importorskip("onnxruntime", reason="exports are an extra: pip install '.[export]'")
    path = folder / f"model.{request.param}"
    if not path.is_file():
        result = command("monai.bundle", *EXPORTS[request.param], "--filepath", path)
        assert result.returncode == 0, result.stderr[-3000:]
    return str(path)


@pytest.fixture(scope="module")
def eager():
    network = ResUNet(1, 4, [8, 16, 32, 64], deep_supervision=1).eval()
    load_weights(network, str(BUNDLE / "models" / "model.pt"))
    return network


def assert_equal_within(tolerance, network, other, image):
    """Relative to the largest logit, since both compute in single precision."""
    with torch.no_grad():
        expected = other(image)
        assert (network(image) - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("size", [(16, 24, 32), (40, 32, 16)])
def test_exports_equal_the_network_on_random_patches(exported, eager, size):
    image = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0))
    assert_equal_within(1e-4, load_exported(exported, CPU), eager, image)


@pytest.mark.parametrize("size", [(48, 48, 48), (64, 56, 40)])
def test_exports_equal_the_network_on_a_real_patient(exported, eager, size):
    path = sorted(real_data("brats_2mm").glob("*/*_t1ce.nii.gz"))[0]
    voxels = nib.load(path).get_fdata(dtype=np.float32)
    voxels[voxels > 0] = (voxels[voxels > 0] - voxels[voxels > 0].mean()) / voxels[voxels > 0].std()
    image = torch.from_numpy(voxels[tuple(slice(4, 4 + length) for length in size)])[None, None].contiguous()
    assert_equal_within(1e-4, load_exported(exported, CPU), eager, image)


def test_inference_takes_an_export_by_one_key(exported, cohort_source, tmp_path, command):
    maps = {}
    for name, weights in {"eager": "models/model.pt", "exported": exported}.items():
        result = command(
            "monai.bundle", "run", "--config_file", "configs/inference.yaml", "--ckpt_path", weights, "--amp", "False",
            "--dataset_dir", cohort_source / "data" / "phantom_0000", "--output_dir", tmp_path / name,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        maps[name] = np.asarray(nib.load(tmp_path / name / "phantom_0000_seg.nii.gz").dataobj)
    assert (maps["eager"] == maps["exported"]).mean() > 0.9999 and maps["eager"].any()


@pytest.mark.parametrize("suffix", [".ts", ".onnx"])
def test_a_file_that_is_no_export_is_named(suffix, tmp_path):
    with pytest.raises(UserError, match=f"ckpt_path .*none{suffix}"):
        load_exported(str(tmp_path / f"none{suffix}"), CPU)
    shutil.copy(BUNDLE / "configs" / "train.yaml", tmp_path / f"wrong{suffix}")
    with pytest.raises(UserError, match=f"ckpt_path .*wrong{suffix}"):
        load_exported(str(tmp_path / f"wrong{suffix}"), CPU)
