"""Shared fixtures: a tiny phantom cohort and its datalist, and ways to run the bundle's commands."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from images import build
from scripts.data.make_datalist import make_datalist
from scripts.data.phantom import make_phantoms
from scripts.errors import UserError, find_sentence
from scripts.method.terms import FusedResponse, FusionLabels, StudentLabels, TeacherLabels, TeacherResponses

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # servers of tests are not behind a proxy

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
SHARED = ROOT.parent / "shared"

# MTCM-KD itself: three teachers that learn with the student, and CDSFL.
METHOD = ["configs/train.yaml"]
ALONE = [*METHOD, "configs/student_alone.yaml"]


def seeing(frozen: Collection[str] = (), **sequences: Sequence[str]) -> dict[str, Any]:
    """Teachers by name, as the data know them: what they see, and whether they learn."""
    return {name: SimpleNamespace(sequences=own, frozen=name in frozen) for name, own in sequences.items()}


# Small enough for a run of seconds; every other setting is train.yaml's.
TINY = [
    "--spacing", "$None", "--roi_size", "[16,16,16]", "--window_size", "[16,16,16]",
    "--overlap", "0.5", "--student_widths", "[4,4,8,8]",
    "--cache", "memory", "--num_workers", "0", "--learning_rate", "0.003", "--amp", "False", "--mirror", "False",
]  # fmt: skip

TINY_TEACHERS = ["--teachers::flair::network::widths", "[4,4,8,8]"]  # the others copy it


@pytest.fixture(autouse=True)
def few_threads():
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
    torch.manual_seed(0)


def wait_for_epochs(folder: Path, epochs: int, process: subprocess.Popen) -> None:
    """Until history.csv of a training holds so many: the checkpoint holds those before."""
    deadline, history = time.monotonic() + 120, folder / "history.csv"
    while not (history.is_file() and history.read_text().count("\n") > epochs):
        assert process.poll() is None, f"{folder}: the training ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{folder}: no epoch in two minutes"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port of loopback at which nobody listens, outside of those that the system gives to connections."""

    def find() -> int:
        for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        raise AssertionError("no port is free")

    return find


@pytest.fixture(scope="session")
def label_image(tmp_path_factory) -> tuple[Path, list[str]]:
    """A copy of the project as in the image ``label`` of the Dockerfile, and the image's command; takes minutes."""
    return build("label", tmp_path_factory.mktemp("label"))


@pytest.fixture(scope="session")
def cohort_source(tmp_path_factory) -> Path:
    """Six phantom patients of 32³ and their datalist with three folds; not to be written to."""
    folder = tmp_path_factory.mktemp("cohort")
    make_phantoms(str(folder / "data"), cases=6, size=32, seed=3)
    make_datalist(str(folder / "data"), str(folder / "datalist.json"), folds=3)
    return folder


@pytest.fixture
def cohort(cohort_source: Path, tmp_path: Path) -> Path:
    """A copy of the cohort that a test may spoil."""
    shutil.copytree(cohort_source, tmp_path / "cohort")
    return tmp_path / "cohort"


@pytest.fixture
def data_options(cohort_source: Path) -> list[str]:
    return ["--dataset_dir", str(cohort_source / "data"), "--datalist", str(cohort_source / "datalist.json")]


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess]:
    """Run ``python -m MODULE ...`` from the bundle's folder, as a user does."""

    def run(*arguments: str, cwd: Path = BUNDLE, **options) -> subprocess.CompletedProcess:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        line = [sys.executable, "-m", *map(str, arguments)]
        return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, **options)

    return run


@pytest.fixture
def small_files() -> Callable[[int], AbstractContextManager[None]]:
    """The system then writes no file larger than so many bytes: stands for a full disk."""
    resource = pytest.importorskip("resource", reason="limits are set on POSIX only")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@contextmanager
def bare_errors() -> Iterator[None]:
    """UserError as it was raised, which MONAI wraps into errors of its own where it builds a config."""
    try:
        yield
    except RuntimeError as error:
        if sentence := find_sentence(error):
            raise UserError(sentence) from error
        raise


def paper_terms(segmentation, soft_target, confidence) -> dict[str, torch.nn.Module]:
    """The terms of configs/train.yaml and their weights, built by hand."""
    return {
        "teacher": TeacherLabels(segmentation),
        "fusion_1": FusionLabels(segmentation, 0.08),
        "student": StudentLabels(segmentation, 0.75, warm_up_weight=1.0),
        "distil": TeacherResponses(soft_target, confidence),
        "student_deep_1": StudentLabels(segmentation, 0.07, level=1),
        "distil_fusion_1": FusedResponse(soft_target, 0.03),
    }


def real_data(name: str) -> Path:
    """A folder of real patients, or a skip."""
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"real patients are not at hand ({name})")
    return folder
