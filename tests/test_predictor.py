import json
import logging
import re
import shutil
import threading
from importlib.util import find_spec

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import run as bundle_run
from monai.data import DataLoader
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, MapTransform
from scipy.ndimage import label as connected_components
from torch import nn

from conftest import BUNDLE, bare_errors, real_data
from scripts.data.phantom import draw_patient, make_phantoms
from scripts.errors import UserError
from scripts.files import replacing, sha256
from scripts.inference.checked_images import CheckedImages
from scripts.inference.predictor import Predictor, load_members, make_members
from scripts.inference.small_parts import ClearSmallPartsd
from scripts.inference.worklist import find_work
from scripts.method.resunet import ResUNet

WIDTHS = [4, 4, 8, 8]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of two students that differ."""
    folder = tmp_path_factory.mktemp("weights")
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(student().state_dict(), folder / f"{seed}.pt")
    return [str(folder / f"{seed}.pt") for seed in (0, 1)]


def student():
    return ResUNet(1, 4, WIDTHS, deep_supervision=1)


def predict(source, output, ckpt_path, **options):
    windows = {"spacing": "$None", "window_size": [16, 16, 16], "overlap": 0.5, "whole_volume": 0}
    folders = {"bundle_root": str(BUNDLE), "dataset_dir": str(source), "output_dir": str(output)}
    settings = {"ckpt_path": ckpt_path, "student_widths": WIDTHS, "mirror": False, "amp": False, "engine": "torch"}
    settings["smallest_part_ml"] = 0
    config = str(BUNDLE / "configs" / "inference.yaml")
    bundle_run("evaluating", config_file=config, **folders, **{**settings, **windows, **options})


@pytest.mark.parametrize(
    "key, value, expected",
    [
        *[("probabilities", value, "True or False") for value in ("float16", "8bit", "yes", 1)],
        ("ckpt_path", "[a.pt,b.pt]", r"files that exist, several as \"\['a\.pt','b\.pt'\]\""),
    ],
)
def test_values_that_predict_does_not_take_are_named(key, value, expected, weights, cohort_source, tmp_path):
    options = {"ckpt_path": weights[0], key: value}
    with pytest.raises(UserError, match=f"{key} is {re.escape(repr(value))}, expected {expected}"), bare_errors():
        predict(cohort_source / "data", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def read(folder, case, kind="seg"):
    return nib.load(folder / f"{case}_{kind}.nii.gz").get_fdata()


def probabilities(path, case, source):
    """Second implementation: softmax of the sliding window over the normalised brain, in the image's own grid."""
    image = nib.load(source / "data" / case / f"{case}_t1ce.nii.gz")
    voxels = nib.as_closest_canonical(image).get_fdata(dtype=np.float32)
    brain = voxels != 0
    box = tuple(slice(*(np.flatnonzero(brain.any(tuple({0, 1, 2} - {a})))[[0, -1]] + [0, 1])) for a in range(3))
    values = voxels[brain]
    normal = np.where(brain, (voxels - values.mean()) / values.std(), 0)[box]
    network = student().eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    inferer = SlidingWindowInferer([16, 16, 16], sw_batch_size=2, overlap=0.5, mode="gaussian")
    with torch.no_grad():
        inside = inferer(torch.from_numpy(normal.astype(np.float32))[None, None], network).softmax(1)[0].numpy()
    result = np.zeros((4, *voxels.shape))
    result[(slice(None), *box)] = inside
    return result[:, ::-1, ::-1]  # phantoms run to the left and to the back


def test_an_ensemble_is_the_mean_of_probabilities_with_its_uncertainty(cohort_source, weights, tmp_path):
    source = cohort_source / "data" / "phantom_0000"
    predict(source, tmp_path, weights, uncertainty=True)
    members = np.stack([probabilities(path, "phantom_0000", cohort_source) for path in weights])
    mean = members.mean(0)
    expected = np.array([0, 1, 2, 4])[mean.argmax(0)]
    assert (read(tmp_path, "phantom_0000") == expected).mean() > 0.9999  # ties of rounding aside
    inside = mean.sum(0) > 0
    entropy = -(mean * np.log(np.where(mean > 0, mean, 1))).sum(0)
    np.testing.assert_allclose(read(tmp_path, "phantom_0000", "entropy")[inside], entropy[inside], atol=1e-4)
    np.testing.assert_allclose(read(tmp_path, "phantom_0000", "variance"), members.var(0).mean(0), atol=1e-4)
    alone = np.array([0, 1, 2, 4])[members[0].argmax(0)]
    assert (alone != expected).any()


def test_mirroring_changes_the_label_map_and_whole_volumes_need_no_windows(cohort_source, weights, tmp_path):
    source = cohort_source / "data" / "phantom_0001"
    results = {}
    for name, options in {"plain": {}, "mirror": {"mirror": True}, "whole": {"whole_volume": 10**6}}.items():
        predict(source, tmp_path / name, weights[0], overlap=0, **options)
        results[name] = read(tmp_path / name, "phantom_0001")
    assert (results["mirror"] != results["plain"]).any() and (results["whole"] != results["plain"]).any()


def test_small_parts_are_taken_away_unless_all_are_kept(cohort_source, weights, tmp_path):
    source = cohort_source / "data" / "phantom_0000"
    for name, smallest in (("all", 0), ("large", 1e6)):
        predict(source, tmp_path / name, weights[0], smallest_part_ml=smallest)
    every, large = (read(tmp_path / name, "phantom_0000") for name in ("all", "large"))
    assert (every == 4).any() and not (large == 4).any()
    tumour = largest_part(every > 0)
    assert np.array_equal(large > 0, tumour)
    assert np.array_equal(large == 1, largest_part(tumour & (every != 2)))


def largest_part(mask):
    parts, _ = connected_components(mask, np.ones((3, 3, 3)))
    return parts == 1 + np.bincount(parts[parts > 0] - 1).argmax()


def test_overwriting_that_is_stopped_leaves_what_was_there_under_its_settings(
    cohort_source, weights, tmp_path, monkeypatch
):
    source = cohort_source / "data"
    predict(source, tmp_path, weights[0], overlap=0, uncertainty=True)
    before = files_of(tmp_path)
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Predictor, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        predict(source, tmp_path, weights[1], overlap=0, overwrite=True)
    assert len(before) == 12 and files_of(tmp_path) == before
    assert [len(group["cases"]) for group in groups_of(tmp_path)] == [0, 6]


def test_overwriting_that_fails_before_the_label_map_leaves_all_earlier_files(
    cohort_source, weights, tmp_path, monkeypatch
):
    source = cohort_source / "data" / "phantom_0000"
    predict(source, tmp_path, weights[0], overlap=0, uncertainty=True, probabilities=True)
    before = files_of(tmp_path)

    def fail(*_):
        raise MemoryError("out of memory")

    monkeypatch.setattr(ClearSmallPartsd, "__call__", fail)
    with pytest.raises(UserError, match="phantom_0000 .*out of memory"), bare_errors():
        predict(source, tmp_path, weights[1], overlap=0, uncertainty=True, probabilities=True, overwrite=True)
    assert len(before) == 3 and files_of(tmp_path) == before
    assert [len(group["cases"]) for group in groups_of(tmp_path)] == [0, 1]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def groups_of(folder):
    record = json.loads((folder / "inference.json").read_text())
    return [record, *record["earlier"]]


def test_overwriting_keeps_the_files_of_a_patient_whose_image_is_damaged(cohort, weights, tmp_path):
    out = tmp_path / "out"
    predict(cohort / "data", out, weights[0], overlap=0, uncertainty=True)
    before = files_of(out)
    (cohort / "data" / "phantom_0002" / "phantom_0002_t1ce.nii.gz").write_bytes(b"damaged")
    with pytest.raises(UserError, match="phantom_0002 .*unreadable"), bare_errors():
        predict(cohort / "data", out, weights[1], overlap=0, overwrite=True)
    after = files_of(out)
    assert {name for name in before if after.get(name) == before[name]} == {
        "phantom_0002_seg.nii.gz",
        "phantom_0002_entropy.nii.gz",
    }
    assert len(after) == 7
    assert [{case["case"] for case in group["cases"]} for group in groups_of(out)] == [
        {f"phantom_000{index}" for index in (0, 1, 3, 4, 5)},
        {"phantom_0002"},
    ]


def test_a_corrected_label_map_stays_when_files_are_added(cohort_source, weights, tmp_path):
    source = cohort_source / "data" / "phantom_0000"
    predict(source, tmp_path, weights[0], overlap=0)
    (tmp_path / "phantom_0000_seg.nii.gz").write_bytes(b"corrected")
    predict(source, tmp_path, weights[0], overlap=0, uncertainty=True)
    (tmp_path / "phantom_0000_entropy.nii.gz").write_bytes(b"kept too")
    predict(source, tmp_path, weights[0], overlap=0, uncertainty=True, probabilities=True)
    files = files_of(tmp_path)
    assert files["phantom_0000_seg.nii.gz"] == b"corrected" and files["phantom_0000_entropy.nii.gz"] == b"kept too"
    assert np.allclose(read(tmp_path, "phantom_0000", "probabilities").sum(-1), 1, atol=0.01)


def test_a_dicom_seg_is_made_of_the_label_map_on_disk(weights, tmp_path):
    pydicom = pytest.importorskip("pydicom", minversion="3", reason="the extra dicom is not installed")
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    from dicom_folders import write_dicom

    brain = draw_patient(np.random.default_rng([3, 0]), 32)[0]["t1ce"].round()[:, :, ::2]
    for patient in ("P1", "P2"):
        write_dicom(tmp_path / "in" / patient, brain, np.diag([-5.0, -5, 10, 1]), PatientID=patient)
    out = tmp_path / "out"
    predict(tmp_path / "in", out, weights[0], overlap=0)
    for patient, value in (("P1", 4), ("P2", 7)):
        image = nib.load(out / f"{patient}_20240105_seg.nii.gz")
        voxels = np.zeros(image.shape, np.uint8)
        voxels[10:13, 10:12, 5] = value
        nib.save(nib.Nifti1Image(voxels, image.affine), out / f"{patient}_20240105_seg.nii.gz")
    before = files_of(out)
    with pytest.raises(UserError, match=r"P2_.*P2_20240105_seg\.nii\.gz: unknown label values \[7\]"), bare_errors():
        predict(tmp_path / "in", out, weights[0], overlap=0, dicom_seg=True)
    assert files_of(out) == before and [path.name for path in out.glob("*.dcm")] == ["P1_20240105_seg.dcm"]
    seg = pydicom.dcmread(out / "P1_20240105_seg.dcm")
    assert seg.pixel_array.sum() == 6 and len(seg.SegmentSequence) == 3


def test_overwriting_whose_dicom_seg_fails_says_which_weights_made_the_label_map(weights, tmp_path, monkeypatch):
    pytest.importorskip("pydicom", minversion="3", reason="the extra dicom is not installed")
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    from dicom_folders import write_dicom
    from scripts.inference.dicom_seg import SaveDicomSegd

    brain = draw_patient(np.random.default_rng([3, 0]), 32)[0]["t1ce"].round()[:, :, ::2]
    write_dicom(tmp_path / "in", brain, np.diag([-5.0, -5.0, 10.0, 1.0]))
    out = tmp_path / "out"
    predict(tmp_path / "in", out, weights[0], overlap=0, dicom_seg=True)
    (seg,), before = out.glob("*_seg.dcm"), files_of(out)

    def fail(*_):
        assert not seg.exists()
        raise MemoryError("out of memory")

    monkeypatch.setattr(SaveDicomSegd, "__call__", fail)
    with pytest.raises(UserError, match="out of memory"), bare_errors():
        predict(tmp_path / "in", out, weights[1], overlap=0, dicom_seg=True, overwrite=True)
    assert files_of(out) != before and not seg.exists()
    (group,) = (group for group in groups_of(out) if group["cases"])
    assert group["settings"]["weights"] == [sha256(weights[1])]


def test_a_label_map_of_another_image_of_that_name_is_not_taken_for_this_ones(cohort_source, weights, tmp_path):
    for patient, case in (("p1", "phantom_0000"), ("p2", "phantom_0001")):
        (tmp_path / patient).mkdir()
        shutil.copy(cohort_source / "data" / case / f"{case}_t1ce.nii.gz", tmp_path / patient / "scan.nii.gz")
    predict(tmp_path / "p1", tmp_path / "out", weights[0], overlap=0)
    with pytest.raises(UserError, match=r"scan_seg\.nii\.gz.*p1/scan\.nii\.gz.*p2/scan\.nii\.gz"), bare_errors():
        predict(tmp_path / "p2", tmp_path / "out", weights[0], overlap=0)


@pytest.mark.parametrize(
    "key, value", [("label_values", [0, 2, 1, 4]), ("preprocessing::transforms::7::nonzero", False)]
)
def test_a_folder_takes_no_label_maps_that_other_values_or_another_preprocessing_made(
    cohort_source, weights, tmp_path, key, value
):
    predict(cohort_source / "data" / "phantom_0000", tmp_path, weights[0], overlap=0)
    record = json.loads((tmp_path / "inference.json").read_text())
    with pytest.raises(UserError, match=rf"made with other {key.partition('::')[0]}"), bare_errors():
        predict(cohort_source / "data" / "phantom_0001", tmp_path, weights[0], overlap=0, **{key: value})
    for name in ("label_values", "preprocessing", "network_def", "inferer", "averaging", "label_map"):
        del record["settings"][name]
    (tmp_path / "inference.json").write_text(json.dumps(record))  # as version 0.1.0 wrote it
    predict(cohort_source / "data" / "phantom_0001", tmp_path, weights[0], overlap=0)


def test_what_is_done_is_skipped_until_overwritten(cohort_source, weights, tmp_path):
    source = cohort_source / "data"
    predict(source / "phantom_0000", tmp_path, weights[0], overlap=0)
    first = read(tmp_path, "phantom_0000")
    (tmp_path / "phantom_0000_seg.nii.gz").write_bytes(b"kept")
    predict(source, tmp_path, weights[0], overlap=0)
    assert (tmp_path / "phantom_0000_seg.nii.gz").read_bytes() == b"kept"
    assert len(list(tmp_path.glob("*_seg.nii.gz"))) == 6
    predict(source, tmp_path, weights[0], overlap=0)  # nothing left to do
    predict(source / "phantom_0000", tmp_path, weights[0], overlap=0, overwrite=True)
    about = json.loads((tmp_path / "inference.json").read_text())
    assert len(about["cases"]) == 6 and len(about["settings"]["weights"]) == 1
    with pytest.raises(UserError, match=rf"{tmp_path} .*mirror \(False there, True here\), weights"), bare_errors():
        predict(source, tmp_path, weights[1], overlap=0, mirror=True)
    assert about["settings"]["engine"] == "torch"
    other = "openvino" if find_spec("openvino") else "torch"
    with pytest.raises(UserError, match=f"{tmp_path} .*amp") as error, bare_errors():
        predict(source, tmp_path, weights[0], overlap=0, engine=other, amp=True)
    assert "engine" in str(error.value) or other == "torch"
    predict(source / "phantom_0000", tmp_path, weights[1], overlap=0, overwrite=True)
    assert len(json.loads((tmp_path / "inference.json").read_text())["cases"]) == 1
    assert not np.array_equal(read(tmp_path, "phantom_0000"), first)
    predict(source / "phantom_0000", tmp_path, weights[0], overlap=0, overwrite=True)
    assert np.array_equal(read(tmp_path, "phantom_0000"), first)


def voxels_of(cohort_source):
    image = nib.load(cohort_source / "data" / "phantom_0000" / "phantom_0000_t1ce.nii.gz")
    return np.asarray(image.dataobj), image.affine


@pytest.mark.parametrize("dtype", [np.uint8, ">i2", np.uint16, np.int32, np.float64])
def test_the_type_of_the_voxels_does_not_matter(dtype, cohort_source, weights, tmp_path):
    voxels, affine = voxels_of(cohort_source)
    whole = (voxels / voxels.max() * 255).round()
    for name, image in {"plain": whole.astype(np.float32), "typed": whole.astype(dtype)[..., None]}.items():
        nib.save(nib.Nifti1Image(image, affine), tmp_path / f"{name}.nii.gz")
        predict(tmp_path / f"{name}.nii.gz", tmp_path, weights[0])
    assert np.array_equal(read(tmp_path, "plain"), read(tmp_path, "typed"))


def test_faulty_patients_are_reported_at_the_end_and_the_others_written(cohort_source, weights, tmp_path, command):
    voxels, affine = voxels_of(cohort_source)
    folder = tmp_path / "in"
    folder.mkdir()
    nib.save(nib.Nifti1Image(voxels, affine), folder / "a_good.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros_like(voxels), affine), folder / "b_empty.nii.gz")
    nib.save(nib.Nifti1Image(np.where(voxels > 0, voxels, np.nan), affine), folder / "c_nan.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([voxels] * 3, -1), affine), folder / "d_colour.nii.gz")
    (folder / "e_broken.nii.gz").write_bytes((folder / "a_good.nii.gz").read_bytes()[:3000])
    tiny = voxels[12:18, 12:17, 12:16] * (np.arange(6) > 0)[:, None, None]  # six slices, one of them background
    nib.save(nib.Nifti1Image(tiny, np.diag([10, 12, 14, 1])), folder / "f_tiny.NII.GZ")
    nib.save(nib.Nifti1Image(voxels[..., :1], affine), folder / "g_slice.nii.gz")
    result = command(
        "monai.bundle", "run", "evaluating", "--config_file", "configs/inference.yaml", "--dataset_dir", folder,
        "--output_dir", tmp_path / "out", "--ckpt_path", weights[0], "--student_widths", str(WIDTHS),
        "--window_size", "[16,16,16]", "--overlap", "0.5", "--spacing", "$None",
    )  # fmt: skip
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for fault in ("b_empty.*empty", "c_nan.*non-finite", "d_colour.*3-D", "e_broken.*truncated", "g_slice.*slice"):
        assert any(re.search(fault, line) for line in result.stderr.splitlines()), result.stderr[-2000:]
    assert not re.search("a_good|f_tiny", result.stderr.partition("remedy")[2])
    written = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert written == {"a_good_seg.nii.gz", "f_tiny_seg.nii.gz"}


def test_a_network_that_fails_on_one_patient_does_not_stop_the_others(cohort_source, tmp_path):
    class Fragile(nn.Module):
        calls = 0

        def forward(self, image):
            Fragile.calls += 1
            if Fragile.calls == 2:
                raise MemoryError("out of memory\nand so on")
            return image

    images = find_work(str(cohort_source / "data"))["all"]
    loader = DataLoader(CheckedImages(images, Compose([LoadImaged("image"), EnsureChannelFirstd("image")])))
    predictor = Predictor(torch.device("cpu"), loader, [Fragile()], ["pred"], inferer=SimpleInferer())
    with pytest.raises(UserError, match=r"phantom_0001 .*MemoryError: out of memory .*\n1 "):
        predictor.run()
    assert Fragile.calls == 6


def test_a_map_that_cannot_be_written_under_its_name_does_not_stop_the_others(cohort_source, tmp_path):
    def write(data):
        path = tmp_path / ("x" * 300 if data["case"] == "phantom_0001" else data["case"])
        with replacing(path) as partial:
            partial.touch()
        return data

    images = find_work(str(cohort_source / "data"))["all"]
    loader = DataLoader(CheckedImages(images, Compose([LoadImaged("image"), EnsureChannelFirstd("image")])))
    device = torch.device("cpu")
    predictor = Predictor(device, loader, [nn.Identity()], ["pred"], inferer=SimpleInferer(), postprocessing=write)
    with pytest.raises(UserError, match=r"phantom_0001 .*File name too long"):
        predictor.run()
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("error", [MemoryError("out of memory"), UserError("the disk is full")])
def test_patients_are_written_in_a_thread_and_one_that_fails_there_is_named(error, cohort_source):
    written, threads = [], set()

    class Write(MapTransform):
        def __call__(self, data):
            threads.add(threading.current_thread())
            if data["case"] == "phantom_0001":
                raise error
            written.append(data["case"])
            return data

    images = find_work(str(cohort_source / "data"))["all"]
    loader = DataLoader(CheckedImages(images, Compose([LoadImaged("image"), EnsureChannelFirstd("image")])))
    predictor = Predictor(
        torch.device("cpu"), loader, [nn.Identity()], ["pred"], inferer=SimpleInferer(), postprocessing=Write("pred")
    )
    with pytest.raises(UserError, match="^the disk is full|phantom_0001 .*MemoryError: out of memory .*\n1 "):
        predictor.run()
    others = [f"phantom_{index:04d}" for index in (0, 2, 3, 4, 5)]
    assert written == (others[:1] if isinstance(error, UserError) else others)
    assert threading.main_thread() not in threads and len(threads) == 1


def test_each_image_is_read_once_and_all_but_the_first_in_a_thread(cohort_source):
    threads = []

    class Load(LoadImaged):
        def __call__(self, data):
            threads.append(threading.current_thread())
            return super().__call__(data)

    images = find_work(str(cohort_source / "data"))["all"]
    ahead = CheckedImages(images, Compose([Load("image"), EnsureChannelFirstd("image")]))
    for index, entry in enumerate(images):
        expected = nib.load(entry["image"]).get_fdata(dtype=np.float32)
        assert np.array_equal(np.asarray(ahead[index]["image"])[0], expected)
    main = threading.main_thread()
    assert [thread is main for thread in threads] == [True, *[False] * (len(images) - 1)]


def test_weights_of_other_widths_leave_nothing_behind(cohort_source, tmp_path):
    torch.save(ResUNet(1, 4, [8, 8, 8, 8], deep_supervision=1).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(UserError, match=r"wide\.pt .*student_widths"), bare_errors():
        predict(cohort_source / "data", tmp_path / "out", str(tmp_path / "wide.pt"))
    assert not (tmp_path / "out").exists()


def test_members_are_independent_copies(weights):
    network = student()
    members = make_members(network, weights, torch.device("cpu"))
    load_members(members, weights)
    assert members[0] is network and len(members) == 2
    for member, path in zip(members, weights):
        assert torch.equal(member.state_dict()["head.weight"], torch.load(path, weights_only=True)["head.weight"])
    with pytest.raises(UserError, match=r"nowhere\.pt"):
        load_members(members, ["nowhere.pt"])


def test_channels_last_members_predict_the_same(weights):
    image, logits = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)), []
    for channels_last in (False, True):
        (member,) = make_members(student(), weights[0], torch.device("cpu"), channels_last)
        load_members([member], weights[0])
        layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        assert member.decoder1.conv1.weight.is_contiguous(memory_format=layout)
        logits.append(member.eval()(image))
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def z_scored(source, target):
    """Write raw voxels as other tools normalise them: mean 0 and deviation 1 in the brain, background 0."""
    image = nib.load(source)
    voxels = image.get_fdata(dtype=np.float32)
    inside = voxels[voxels != 0]
    normal = np.where(voxels != 0, (voxels - inside.mean()) / inside.std(), 0)
    nib.save(nib.Nifti1Image(normal.astype(np.float32), image.affine), target)


def dice_of_z_scored(source, folder):
    """Least Dice of the regions between the shipped weights' label maps of raw and z-scored voxels."""
    (folder / "in").mkdir(parents=True)
    z_scored(source, folder / "in" / "normal.nii.gz")
    shutil.copy(source, folder / "in" / "raw.nii.gz")
    predict(folder / "in", folder, str(BUNDLE / "models" / "model.pt"), spacing=[2, 2, 2], window_size=[64] * 3,
            student_widths=[8, 16, 32, 64], overlap=0.25)  # fmt: skip
    raw, normal = read(folder, "raw"), read(folder, "normal")
    regions = [(np.isin(raw, values), np.isin(normal, values)) for values in ((1, 2, 4), (1, 4), (4,))]
    assert regions[0][0].sum() > 100  # there is something to compare
    return min(2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in regions if a.any() or b.any())


def test_z_scored_voxels_give_the_same_label_map(tmp_path):
    make_phantoms(str(tmp_path), cases=1, size=48, seed=3)  # 3.3 mm: resampled to 2 mm
    source = tmp_path / "phantom_0000" / "phantom_0000_t1ce.nii.gz"
    assert dice_of_z_scored(source, tmp_path / "out") > 0.95  # the weights know no phantoms


@pytest.mark.slow
@pytest.mark.parametrize("case", ["brats_1mm/BraTS2021_00410", "brats_2mm_more/BraTS2021_01480"])
def test_z_scored_voxels_of_real_patients_give_the_same_label_map(case, tmp_path):
    folder = real_data(case.split("/")[0]) / case.split("/")[1]
    assert dice_of_z_scored(next(folder.glob("*_t1ce.nii.gz")), tmp_path) > 0.98


@pytest.mark.slow
def test_full_resolution_patients_keep_their_grid(weights, tmp_path, monkeypatch):
    source = real_data("brats_1mm")
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)
    predict(source, tmp_path, weights[0], spacing=[4.0, 4.0, 4.0])
    written = sorted(tmp_path.glob("*_seg.nii.gz"))
    assert len(written) == 3
    for path in written:
        case = path.name.removesuffix("_seg.nii.gz")
        image, label = nib.load(source / case / f"{case}_t1ce.nii.gz"), nib.load(path)
        assert label.shape == image.shape and np.array_equal(label.affine, image.affine)


def as_stored(folder, name, image):
    nib.save(image, folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


def test_the_label_map_keeps_the_grid_where_axes_lie_at_45_degrees(weights, tmp_path, cohort_source):
    voxels, _ = voxels_of(cohort_source)
    half = np.sqrt(0.5)
    affine = np.diag([8.0, 9.0, 10.0, 1.0])
    affine[:3, :3] = np.array([[half, 0, half], [half, 0, -half], [0, 1, 0]]) @ affine[:3, :3]
    image = nib.Nifti1Image(voxels[::2, ::2, 2::2], affine)
    predict(as_stored(tmp_path, "a", image), tmp_path / "out", weights[0])
    label = nib.load(tmp_path / "out" / "a_seg.nii.gz")
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, affine, atol=1e-4)


def test_a_last_axis_of_one_and_turned_axes_go_together(weights, tmp_path, cohort_source):
    voxels, _ = voxels_of(cohort_source)
    affine = np.array([[0.0, 0, -5, 0], [-5, 0, 0, -90], [0, 5, 0, 0], [0, 0, 0, 1]])
    for name, image in {"3d": voxels, "4d": voxels[..., None]}.items():
        predict(as_stored(tmp_path, name, nib.Nifti1Image(image, affine)), tmp_path / "out", weights[0])
    assert np.array_equal(read(tmp_path / "out", "3d"), read(tmp_path / "out", "4d"))


def test_the_sform_counts_where_both_have_codes(weights, tmp_path, cohort_source):
    """The qform of another frame, such as the scanner's, is no fault; MONAI takes it where pixdim is nearer to it."""
    voxels, affine = voxels_of(cohort_source)
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine @ np.diag([1.001, 1, 1, 1]), 2)
    image.set_qform(np.array([[0, 1, 0, 5], [-1, 0, 0, 30], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine, 1)
    predict(as_stored(tmp_path, "a", image), tmp_path / "out", weights[0])
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "a_seg.nii.gz").affine, image.get_sform(), atol=1e-4)
