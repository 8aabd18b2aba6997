"""Trained networks of other programs as frozen teachers: a zoo bundle, and nnU-Net by its own library."""

import hashlib
import json
import os
import subprocess
import sys
import types

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import SegResNet

from conftest import BUNDLE, TINY
from scripts.errors import UserError
from scripts.files import read_json, write_json
from scripts.inference.foreign_teachers import heads_to_classes, nnunet, zoo_bundle
from scripts.inference.stored_predictions import single_files
from scripts.labels import sequence_named
from scripts.variants.regions import regions_to_classes

ORDER = ("t1ce", "t1", "t2", "flair")  # of brats_mri_segmentation's channels


def read(cohort, case, role):
    return np.asarray(nib.load(cohort / "data" / case / f"{case}_{role}.nii.gz").dataobj, dtype=np.float32)


@pytest.fixture
def bundle(tmp_path):
    """A bundle in the form of the zoo's brats_mri_segmentation, with a small network and random weights."""
    torch.manual_seed(0)
    options = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1], "in_channels": 4, "out_channels": 3}
    network = SegResNet(**options).eval()
    (tmp_path / "zoo" / "models").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "zoo" / "models" / "model.pt")
    normalise = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True}
    config = {
        "bundle_root": "/nowhere",
        "device": "$torch.device('cuda:0')",
        "network_def": {"_target_": "SegResNet", **options},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "LoadImaged", "keys": "image"}, normalise],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_batch_size": 1, "overlap": 0.5},
    }
    channels = {"0": "T1c", "1": "T1", "2": "T2", "3": "FLAIR"}
    regions = {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"}
    formats = {"inputs": {"image": {"channel_def": channels}}, "outputs": {"pred": {"channel_def": regions}}}
    (tmp_path / "zoo" / "configs").mkdir()
    write_json(tmp_path / "zoo" / "configs" / "inference.json", config)
    write_json(tmp_path / "zoo" / "configs" / "metadata.json", {"network_data_format": formats})
    return tmp_path / "zoo", network


def test_a_zoo_bundle_predicts_class_probabilities_of_all_patients(cohort, bundle, tmp_path):
    folder, network = bundle
    options = [str(cohort / "datalist.json"), str(cohort / "data"), str(tmp_path / "predicted")]
    assert zoo_bundle(str(folder), *options) == options[-1]
    images = torch.stack([torch.as_tensor(read(cohort, "phantom_0002", role)) for role in ORDER])
    for image in images:
        brain = image[image != 0]
        image[image != 0] = (brain - brain.mean()) / brain.std(correction=0)
    with torch.no_grad():
        wanted = regions_to_classes(network(images[None])[0].sigmoid())
    stored = nib.load(tmp_path / "predicted" / "phantom_0002_probabilities.nii.gz")
    np.testing.assert_allclose(np.moveaxis(stored.get_fdata(), 3, 0), wanted.numpy(), atol=0.003)
    np.testing.assert_allclose(stored.affine, nib.load(next((cohort / "data").glob("*0002/*_t1.nii.gz"))).affine)
    assert len(list((tmp_path / "predicted").glob("*.nii.gz"))) == 6
    before = times_of(tmp_path / "predicted")
    zoo_bundle(str(folder), *options)  # what is there is kept
    assert times_of(tmp_path / "predicted") == before
    next((cohort / "data").glob("*0002/*_t1.nii.gz")).touch()  # an image that was registered again
    zoo_bundle(str(folder), *options)
    changed = times_of(tmp_path / "predicted") - before
    assert [name for name, _ in changed] == ["phantom_0002_probabilities.nii.gz"]


def times_of(folder):
    return {(path.name, path.stat().st_mtime_ns) for path in folder.glob("*.nii.gz")}


@pytest.mark.parametrize("name, sequence", [
    ("T1Gd", "t1ce"), ("T1-ce", "t1ce"), ("t2 w", "t2"), ("FLAIR", "flair"), ("T1+", None), ("T2*", None),
])  # fmt: skip
def test_names_of_channels_mean_sequences_or_nothing(name, sequence):
    assert sequence_named(name) == sequence


def test_predictions_of_others_and_of_an_earlier_config_are_not_taken_over(cohort, bundle, tmp_path):
    folder, _ = bundle
    own = tmp_path / "own"
    own.mkdir()
    (own / "phantom_0002_probabilities.nii.gz").write_bytes(b"somebody's")
    options = [str(cohort / "datalist.json"), str(cohort / "data")]
    with pytest.raises(UserError, match="own holds predictions of another teacher"):
        zoo_bundle(str(folder), *options, str(own))
    zoo_bundle(str(folder), *options, str(tmp_path / "predicted"))
    spoil(folder / "configs" / "inference.json", lambda document: document["preprocessing"]["transforms"].pop())
    with pytest.raises(UserError, match="predicted holds predictions of another teacher"):
        zoo_bundle(str(folder), *options, str(tmp_path / "predicted"))


def test_a_file_with_all_sequences_is_given_as_one_file_of_each(tmp_path):
    voxels = np.random.default_rng(0).random((4, 5, 6, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1])), tmp_path / "all.nii.gz")
    image = {"image": [str(tmp_path / "all.nii.gz")] * 2, "channels": {"image": [2, 0], "volumes": 4}}
    with single_files(image) as files:
        read = [nib.load(file) for file in files]
        for volume, one in zip((2, 0), read):
            np.testing.assert_array_equal(one.get_fdata(dtype=np.float32), voxels[..., volume])
            assert one.header.get_zooms() == (2, 2, 2)
    with single_files({"image": "a.nii.gz"}) as files:
        assert files == ["a.nii.gz"]


def spoil(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_what_is_no_such_bundle_is_named(cohort, bundle, tmp_path):
    folder, _ = bundle
    options = [str(cohort / "datalist.json"), str(cohort / "data"), str(tmp_path / "predicted")]
    zoo_bundle(str(folder), *options)
    torch.save(SegResNet(init_filters=8, blocks_down=[1, 1], blocks_up=[1], in_channels=4, out_channels=3).state_dict(),
               folder / "models" / "model.pt")  # fmt: skip
    with pytest.raises(UserError, match="another teacher"):
        zoo_bundle(str(folder), *options)
    config, metadata = (folder / "configs" / name for name in ("inference.json", "metadata.json"))
    spoil(config, lambda document: document.pop("inferer"))
    with pytest.raises(UserError, match="bundle_dir .*inferer"):
        zoo_bundle(str(folder), *options)
    spoil(config, lambda document: document.update(inferer={"_target_": "SimpleInferer"}))
    spoil(metadata, lambda d: d["network_data_format"]["inputs"]["image"]["channel_def"].update({"0": "CT"}))
    with pytest.raises(UserError, match=r"metadata\.json: channels .*CT"):
        zoo_bundle(str(folder), *options)
    with pytest.raises(UserError, match="bundle_dir"):
        zoo_bundle(str(tmp_path / "none"), *options)


@pytest.mark.parametrize("key, count", [("in_channels", 5), ("out_channels", 4)])
def test_a_network_of_other_channels_than_its_metadata_names_is_named(cohort, bundle, tmp_path, key, count):
    folder, network = bundle
    fitting = network.state_dict()
    config = folder / "configs" / "inference.json"
    spoil(config, lambda document: document["network_def"].update({key: count}))
    options = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1], "in_channels": 4, "out_channels": 3}
    torch.save(SegResNet(**options | {key: count}).state_dict(), folder / "models" / "model.pt")
    paths = [str(cohort / "datalist.json"), str(cohort / "data"), str(tmp_path / "predicted")]
    with pytest.raises(
        UserError, match=f"bundle_dir {folder} cannot predict phantom_0.*{count} channels.*as its folder"
    ):
        zoo_bundle(str(folder), *paths)
    spoil(config, lambda document: document["network_def"].update(options))
    torch.save(fitting, folder / "models" / "model.pt")
    zoo_bundle(str(folder), *paths)  # the failure left no record of another teacher
    assert len(list((tmp_path / "predicted").glob("*.nii.gz"))) == 6


def test_a_bundle_of_unknown_parts_is_named(cohort, bundle, tmp_path):
    folder, _ = bundle
    spoil(folder / "configs" / "inference.json", lambda document: document["network_def"].update(_target_="NoNet"))
    with pytest.raises(UserError, match=f"bundle_dir {folder} holds no bundle.*NoNet"):
        zoo_bundle(str(folder), str(cohort / "datalist.json"), str(cohort / "data"), str(tmp_path / "predicted"))


@pytest.fixture
def model_folder(tmp_path):
    """What nnUNetv2_train makes, as far as it is looked at before nnU-Net loads it."""
    folder = tmp_path / "nnunet"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    names = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    write_json(folder / "dataset.json", {"channel_names": names, "labels": LABELS["classes"]})
    return folder


def test_an_installation_that_fails_is_told_from_the_folder(cohort, model_folder, tmp_path, monkeypatch):
    """A stand-in for nnU-Net's library fails as with a torchvision of another torch; then there is no library."""
    asked = []

    class Broken:
        def __init__(self, **options):
            asked.append((options["device"].type, options["perform_everything_on_device"]))

        def initialize_from_trained_model_folder(self, *_):
            raise RuntimeError("operator torchvision::nms does not exist\nand more")

    parts = ["nnunetv2", "nnunetv2.inference", "nnunetv2.inference.predict_from_raw_data"]
    for name in parts:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[parts[2]].nnUNetPredictor = Broken
    options = [str(model_folder), str(cohort / "datalist.json"), str(cohort / "data"), str(tmp_path / "out")]
    advice = rf"model_folder {model_folder} cannot be loaded \(RuntimeError: .*nms does not exist\): .*pip check"
    with pytest.raises(UserError, match=advice):
        nnunet(*options, device="cpu")
    monkeypatch.setattr("ignite.distributed.device", lambda: torch.device("cuda"))
    with pytest.raises(UserError, match=advice):
        nnunet(*options)
    assert asked == [("cpu", False), ("cuda", True)]  # by default the GPU where there is one
    for name in parts:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="nnU-Net is not installed: pip install nnunetv2"):
        nnunet(*options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "there, asked, taken",
    [(["0", "1", "all"], None, ["0", "1"]), (["all"], None, ["all"]), (["0", "1"], 1, ["1"]), (["0"], [0], ["0"])],
)
def test_folds_are_those_of_the_cross_validation_or_all(
    cohort, model_folder, tmp_path, monkeypatch, there, asked, taken
):
    (model_folder / "fold_0" / "checkpoint_final.pth").unlink()
    for fold in there:
        (model_folder / f"fold_{fold}").mkdir(exist_ok=True)
        (model_folder / f"fold_{fold}" / "checkpoint_final.pth").write_text(fold)
    options = [str(model_folder), str(cohort / "datalist.json"), str(cohort / "data"), str(tmp_path / "out")]
    made_by = []
    monkeypatch.setattr("scripts.inference.foreign_teachers.predict_all", lambda *given: made_by.extend(given[5]))
    nnunet(*options, folds=asked)
    weights = [hashlib.sha256(fold.encode()).hexdigest() for fold in taken]
    assert made_by[: len(taken)] == weights and made_by[-1] == f"folds {', '.join(taken)}, mirror True"
    with pytest.raises(UserError, match=rf"holds no fold_7/checkpoint_final.pth: .* are there \({', '.join(there)}\)"):
        nnunet(*options, folds=[7])


def test_heads_of_classes_and_of_regions_become_classes():
    probabilities = np.random.default_rng(0).dirichlet([1] * 4, (2, 2, 2)).transpose(3, 0, 1, 2)
    swapped = [(0,), (2,), (1,), (3,)]  # oedema is 1
    np.testing.assert_allclose(heads_to_classes(probabilities[[0, 2, 1, 3]], swapped), probabilities)
    regions = np.stack([probabilities[1:].sum(0), probabilities[[1, 3]].sum(0), probabilities[3]])
    np.testing.assert_allclose(heads_to_classes(regions, [(1, 2, 3), (1, 3), (3,)]), probabilities, atol=1e-7)
    with pytest.raises(UserError, match="expected all four"):
        heads_to_classes(probabilities[:2], [(0,), (1, 2, 3)])


def test_a_folder_that_is_no_nnunet_is_named(cohort, tmp_path):
    pytest.importorskip("nnunetv2")
    with pytest.raises(UserError, match="model_folder"):
        nnunet(str(tmp_path), str(cohort / "datalist.json"), str(cohort / "data"), str(tmp_path / "out"))


LABELS = {
    "classes": {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3},
    "regions": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELS)
def test_a_trained_nnunet_teaches(cohort, tmp_path, kind, command):
    """Planned, trained for a few steps and predicted by nnU-Net itself; our probabilities give its label maps."""
    pytest.importorskip("nnunetv2")
    raw = tmp_path / "raw" / "Dataset001_Phantom"
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    channels = ("t1", "t1ce", "t2", "flair")
    for index in range(6):
        case = f"phantom_{index:04d}"
        for number, role in enumerate(channels):
            image = nib.load(cohort / "data" / case / f"{case}_{role}.nii.gz")
            nib.save(image, raw / "imagesTr" / f"{case}_{number:04d}.nii.gz")
        label = np.asarray(nib.load(cohort / "data" / case / f"{case}_seg.nii.gz").dataobj)
        values = np.select([label == 2, label == 1, label == 4], [1, 2, 3], 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(values, image.affine), raw / "labelsTr" / f"{case}.nii.gz")
    names = {str(number): name for number, name in enumerate(("T1", "T1ce", "T2", "FLAIR"))}
    document = {"channel_names": names, "labels": LABELS[kind], "numTraining": 6, "file_ending": ".nii.gz"}
    write_json(raw / "dataset.json", document | ({"regions_class_order": [1, 2, 3]} if kind == "regions" else {}))
    folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **folders, "nnUNet_compile": "f", "nnUNet_n_proc_DA": "1", "OMP_NUM_THREADS": "2"}

    def run(program, *arguments):
        code = f"from nnunetv2.{program[0]} import {program[1]} as main; main()"
        line = [sys.executable, "-c", SHORT + code, *map(str, arguments)]
        result = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]

    plan = ("experiment_planning.plan_and_preprocess_entrypoints", "plan_and_preprocess_entry")
    run(plan, "-d", "1", "-c", "3d_fullres", "-np", "1", "--verify_dataset_integrity")
    run(
        ("run.run_training", "run_training_entry"),
        "1",
        "3d_fullres",
        "0",
        "-device",
        "cpu",
        "-tr",
        "nnUNetTrainer_1epoch",
    )
    (model,) = (tmp_path / "results" / "Dataset001_Phantom").iterdir()
    options = [str(cohort / "datalist.json"), str(cohort / "data"), str(tmp_path / "predicted")]
    exec(FIT, globals())
    nnunet(str(model), *options, folds=[0], mirror=False)
    arguments = ["-i", raw / "imagesTr", "-o", tmp_path / "own", "-m", model, "-f", "0", "--disable_tta"]
    run(("inference.predict_from_raw_data", "predict_entry_point_modelfolder"), *arguments, "-device", "cpu")
    for index in range(6):
        stored = nib.load(tmp_path / "predicted" / f"phantom_{index:04d}_probabilities.nii.gz").get_fdata()
        own = np.asarray(nib.load(tmp_path / "own" / f"phantom_{index:04d}.nii.gz").dataobj)
        if kind == "classes":
            likely = np.array([0, 2, 1, 3])[stored.argmax(-1)]
            assert (likely == own).mean() > 0.995  # 8 bit: some ties
        else:
            whole = 1 - stored[..., 0] > 0.5
            assert ((own > 0) == whole).mean() > 0.995  # it labels a voxel where any region is likely
    document = read_json(options[0], "datalist")
    for entry in [entry for entry in document["training"] if entry["fold"] != 0][:2]:
        del entry["label"], entry["fold"]
    write_json(cohort / "datalist.json", document)
    (tmp_path / "nnunet.yaml").write_text(OVERLAY.format(model=model, output=tmp_path / "predicted"))
    train = ["scripts", "train", "--method", f"stored_targets,{tmp_path / 'nnunet.yaml'}", "--dataset_dir", options[1]]
    train += ["--datalist", options[0], "--output_dir", tmp_path / "run", "--epochs", "1", "--val_interval", "1", *TINY]
    result = command(*train, cwd=BUNDLE)
    assert result.returncode == 0, result.stderr


FIT = """
import torch
try:
    import torchvision
except RuntimeError:  # built for another torch, and nnU-Net calls nothing of it
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""

SHORT = (
    FIT
    + """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
before = nnUNetTrainer.__init__
def init(self, *arguments, **options):
    before(self, *arguments, **options)
    self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 3, 1
nnUNetTrainer.__init__ = init
"""
)

OVERLAY = """
targets:
  _target_: scripts.inference.foreign_teachers.nnunet
  model_folder: {model}
  datalist: "@datalist"
  dataset_dir: "@dataset_dir"
  output_dir: {output}
  folds: [0]
  mirror: false
"""
