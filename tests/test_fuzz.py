"""Odd volumes, headers, names and folders: each ends with the right grid or with a sentence, and nothing is left over.

``FAULTS_EXAMPLES=2400`` tries so many examples in all, with a seed that is printed; FAULTS_SEED repeats one.
"""

import contextlib
import io
import json
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from monai.bundle import run as bundle_run
from nibabel.orientations import apply_orientation, io_orientation

import fuzz_files as fuzz
from conftest import BUNDLE
from fuzz_folders import cohorts, write_cohort
from scripts.data.make_datalist import make_datalist
from scripts.data.training_cases import load_cases
from scripts.errors import find_sentence
from scripts.method.resunet import ResUNet

EXAMPLES = int(os.environ.get("FAULTS_EXAMPLES", 0))
SEED = int(os.environ.get("FAULTS_SEED", random.SystemRandom().randrange(2**31)))


def tries(count, share):
    """So many examples, always the same; in the long form this share of FAULTS_EXAMPLES, by a seed that is printed."""
    options = hypothesis.settings(
        max_examples=round(EXAMPLES * share) or count, derandomize=not EXAMPLES, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes
    )  # fmt: skip

    def decorate(test):
        return options(hypothesis.seed(SEED)(test) if EXAMPLES else test)

    return decorate


@pytest.fixture(scope="module", autouse=True)
def seed_shown(request):
    if EXAMPLES:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\nFAULTS_EXAMPLES={EXAMPLES} FAULTS_SEED={SEED}")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(ResUNet(1, 4, [4, 4, 8, 8], deep_supervision=1).state_dict(), path)
    return str(path)


@contextlib.contextmanager
def folders():
    """An empty folder of input, and one for output that does not exist."""
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "in").mkdir()
        yield Path(root) / "in", Path(root) / "out"


class Said(logging.Handler):
    """What the log, standard output and the final sentence say."""

    def __init__(self):
        super().__init__()
        self.text, self.failed = "", False

    def emit(self, record):
        self.text += record.getMessage() + "\n"

    def run(self, function, *arguments, **options):
        logger, printed = logging.getLogger("scripts"), io.StringIO()
        level = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        try:
            with contextlib.redirect_stdout(printed):
                function(*arguments, **options)
        except (Exception, SystemExit) as error:
            sentence = find_sentence(error)
            if sentence is None:
                raise
            self.text += sentence
            self.failed = True
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)
            self.text += printed.getvalue()
        return self


def predict(source, output, weights, **options):
    """``python -m scripts predict`` in this process, with a tiny network."""
    settings = {"spacing": "$None", "window_size": [16, 16, 16], "overlap": 0, "mirror": False, "amp": False}
    settings |= {"engine": "torch"}  # OpenVINO converts each network for half a second
    settings |= {"bundle_root": str(BUNDLE), "dataset_dir": str(source), "output_dir": str(output), "device": "cpu"}
    settings |= {"ckpt_path": weights, "student_widths": [4, 4, 8, 8], **options}
    return Said().run(
        bundle_run, "evaluating", config_file=str(BUNDLE / "configs" / "inference.yaml"), logging_file=False, **settings
    )


def files_below(folder):
    """Paths of all files that are neither hidden nor in a hidden folder."""
    found = (Path(top, name) for top, _, names in os.walk(folder) for name in names)
    return [path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts)]


def check_map(path, source):
    """A label map must have nibabel's own shape and affine of its image, and known values."""
    label, image = nib.load(path), nib.load(source)
    values = np.asarray(label.dataobj)
    assert values.shape == image.shape[:3], f"{values.shape} of {image.shape}"
    np.testing.assert_allclose(label.affine, image.affine, rtol=1e-4, atol=1e-4)
    assert set(np.unique(values)) <= {0, 1, 2, 4}
    assert image.get_data_dtype().kind in "biuf"


def check_predicted(source, output, said):
    """Every file is predicted or named; what is written is right and whole, and nothing else is there."""
    maps = {path.name: path for path in output.glob("*")} if output.exists() else {}
    maps.pop(".lock", None)  # removed at the end of its process
    about = json.loads(maps.pop("inference.json").read_text()) if "inference.json" in maps else {"cases": []}
    assert all(name.endswith("_seg.nii.gz") for name in maps), sorted(maps)
    used = {}
    for case in about["cases"]:
        image, label_map = (output.resolve() / case[key] for key in ("image", "prediction"))
        used[os.path.realpath(image)] = case["case"]
        if label_map.name in maps:
            check_map(maps.pop(label_map.name), image)
        else:
            assert said.failed and case["case"] in said.text
    assert not maps
    if said.failed and not used:
        return  # a sentence on the whole folder
    for path in files_below(source):
        assert os.path.realpath(path) in used or path.name in said.text, f"{path.name!r} not in {said.text!r}"


@st.composite
def folders_to_predict(draw):
    images = draw(st.dictionaries(fuzz.names(), fuzz.volumes(), min_size=1, max_size=3))
    strange = draw(st.lists(st.tuples(st.sampled_from(fuzz.STRANGE), fuzz.names()), max_size=2))
    return images, strange


def fill(folder, images, strange):
    for name, spec in images.items():
        with contextlib.suppress(OSError):  # a name that the system does not take
            fuzz.write(folder / name, spec)
    for kind, name in strange:
        with contextlib.suppress(OSError):
            fuzz.write_strange(folder, kind, name)


@tries(8, 0.12)
@given(folder=folders_to_predict())
def test_every_file_of_a_folder_is_predicted_or_named(weights, folder):
    with folders() as (source, output):
        fill(source, *folder)
        check_predicted(source, output, predict(source, output, weights))


@tries(16, 0.3)
@given(name=fuzz.names(), spec=fuzz.volumes())
def test_one_volume_gets_a_map_in_its_grid_or_a_sentence(weights, name, spec):
    with folders() as (source, output):
        path = source / "scan.nii.gz" if len(os.fsencode(name)) > 200 else source / name
        fuzz.write(path, spec)
        said = predict(path, output, weights)
        check_predicted(source, output, said)


@tries(5, 0.06)
@given(spec=fuzz.volumes(odd=False), name=st.sampled_from(["a.nii", "a.nii.gz"]))
def test_volumes_without_a_fault_are_predicted(weights, spec, name):
    with folders() as (source, output):
        fuzz.write(source / name, spec)
        said = predict(source, output, weights)
        assert not said.failed, said.text
        check_map(output / "a_seg.nii.gz", source / name)


def check_listed(root, output, said):
    """A datalist must hold whole cases that fit, and every other file must be named or counted."""
    document = json.loads(output.read_text())
    entries = document["training"] + document["testing"]
    assert len({entry["case"] for entry in entries}) == len(entries) > 0
    folds = {}
    used = set()
    for entry in entries:
        paths = {key: root / entry[key] for key in ("image", "t1", "t2", "flair", "label") if key in entry}
        used |= set(paths.values())
        assert all(path.is_file() for path in paths.values())
        if "fold" in entry:
            assert folds.setdefault(entry["patient"], entry["fold"]) == entry["fold"]
            check_label(nib.load(paths["image"]), nib.load(paths["label"]), set(map(int, document["labels"])))
    counted = sum(map(int, re.findall(r"^files left out +(\d+)", said.text, re.MULTILINE)))
    faulty = [
        name for line in re.findall(r"with faults: (.*)\.$", said.text, re.MULTILINE) for name in line.split(", ")
    ]
    rest = [path for path in files_below(root) if path not in used]
    rest = [path for path in rest if not any(bare(name) in bare(path) for name in faulty)]
    assert len(rest) <= counted or all(path.name in said.text for path in rest), rest


def bare(name):
    """A case's name in which its folders' separators do not count: P0/ses-1 is P0_ses-1."""
    return re.sub("[/_-]", "", str(name))


def check_label(image, label, known):
    values = np.asarray(label.dataobj, float)
    assert label.shape[:3] == image.shape[:3] and np.isfinite(np.asarray(image.dataobj)).all()
    assert np.abs(values - values.round()).max() <= 1e-3 and set(np.unique(values.round())) <= known
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(image.shape[:3]) - 1)
    moves = nib.affines.apply_affine(image.affine, corners) - nib.affines.apply_affine(label.affine, corners)
    assert np.linalg.norm(moves, axis=1).max() < 0.11


@tries(25, 0.5)
@given(cohort=cohorts())
def test_a_folder_of_patients_gives_a_datalist_that_holds_or_a_sentence(cohort):
    scheme, number, changed, options = cohort
    with folders() as (source, output):
        write_cohort(source, scheme, number, changed)
        said = Said().run(make_datalist, str(source), str(output / "list.json"), **options)
        assert said.text
        written = {path.name for path in output.glob("*")} - {"list.checked.json"}  # what reading the files showed
        assert written == (set() if said.failed else {"list.json"})
        if not changed and options["folds"] <= (1 if scheme in ("follow-ups", "visits") else number):
            assert not said.failed, said.text
        if not said.failed:
            check_listed(source, output / "list.json", said)
            if len({entry["fold"] for entry in json.loads((output / "list.json").read_text())["training"]}) > 1:
                data = {"datalist": str(output / "list.json"), "dataset_dir": str(source), "fold": 1}
                assert all(load_cases(**data).values())


ORIENTATIONS = st.permutations(range(3)).flatmap(
    lambda axes: st.tuples(*[st.sampled_from([-1, 1])] * 3).map(lambda signs: np.array([*zip(axes, signs)]))
)


@tries(3, 0.02)
@given(
    turn=ORIENTATIONS,
    spacing=st.sampled_from(["$None", [11.0, 9.0, 8.0]]),
    affine=fuzz.affines((14, 16, 12), [0.0, 0.1, -0.3]),
)
def test_the_label_map_does_not_depend_on_how_the_volume_is_stored(weights, turn, spacing, affine):
    """At 45 degrees it does: two orientations are equally near to the one that the network sees."""
    voxels = fuzz.shrunk(fuzz.patient()[0]["t1ce"], (14, 16, 12))
    image = nib.Nifti1Image(voxels, affine)
    with folders() as (source, output):
        nib.save(image, source / "a.nii")
        nib.save(image.as_reoriented(turn), source / "b.nii.gz")
        said = predict(source, output, weights, spacing=spacing)
        assert not said.failed, said.text
        first, turned = (nib.load(output / f"{name}_seg.nii.gz") for name in "ab")
        back = io_orientation(np.linalg.inv(first.affine) @ turned.affine)
        values = apply_orientation(np.asarray(turned.dataobj), back)
        same = (values == np.asarray(first.dataobj)).mean()
        assert same == 1 if spacing == "$None" else same > 0.998


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.4, 0.75])
def test_the_largest_volumes_take_less_than_8_gib(size, tmp_path):
    """512 x 512 x 400 voxels, with the shipped weights and settings, in a process of its own."""
    shape = (512, 512, 400)
    brain = tuple(min(length, int(200 / size)) for length in shape)  # of at most 200 mm, as brains are
    voxels = np.zeros(shape, np.float32)
    voxels[tuple(map(slice, brain))] = fuzz.shrunk(fuzz.patient()[0]["t1ce"], brain)
    voxels += np.random.default_rng(0).normal(0, 20, shape).astype(np.float32) * (voxels > 0)
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([-size, -size, size, 1])), tmp_path / "a.nii")
    code = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:])"
    code += "; print('GiB', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20); sys.exit(code)"
    line = [sys.executable, "-m", "scripts", "predict", "--dataset_dir", tmp_path / "a.nii", "--output_dir", tmp_path]
    result = subprocess.run([sys.executable, "-c", code, *line], cwd=BUNDLE, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    peak = float(result.stdout.split("GiB")[-1])
    print(f"\npeak memory of {shape} at {size} mm: {peak:.2f} GiB")
    assert 1 < peak < 8
    check_map(tmp_path / "a_seg.nii.gz", tmp_path / "a.nii")
