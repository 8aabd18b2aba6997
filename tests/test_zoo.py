"""What the Model Zoo asks of a contributed bundle, offline; ``make zoo`` runs this with the exports and the sharing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml

from conftest import BUNDLE, ROOT
from scripts.labels import CLASSES

NAME = "brats_t1ce_kd_segmentation"
ZOO = ROOT / "tests" / "zoo"
pytestmark = pytest.mark.zoo
PACKAGES = {"monai": "monai", "numpy": "numpy", "pytorch": "torch"}
METADATA = json.loads((BUNDLE / "configs" / "metadata.json").read_text())


def test_metadata_follow_monais_schema(command, tmp_path):
    """The schema is a copy of the one that metadata.json names, so nothing is fetched."""
    schema = tmp_path / METADATA["schema"].rsplit("/", 1)[1]
    shutil.copy(ZOO / schema.name, schema)
    line = ["monai.bundle", "verify_metadata", "--meta_file", "configs/metadata.json", "--filepath", schema]
    result = command(*line)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "metadata is verified with no error" in result.stdout + result.stderr


@pytest.mark.parametrize("n", [1, 4])
def test_the_network_takes_and_gives_what_metadata_say(n, command):
    result = command(
        "monai.bundle", "verify_net_in_out", "--net_id", "network_def", "--meta_file", "configs/metadata.json",
        "--config_file", "configs/inference.yaml", "--n", n,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]


def test_versions_are_those_that_are_tested():
    named = {package: METADATA[f"{name}_version"] for name, package in PACKAGES.items()}
    named |= METADATA["required_packages_version"]
    assert named == {package: version(package).split("+")[0] for package in named}
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{METADATA["version"]}"' in project and METADATA["version"] in METADATA["changelog"]
    assert f"## {METADATA['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_files_that_the_zoo_asks_for_are_there_and_small():
    for name in ("LICENSE", "configs/metadata.json", "docs/README.md", "docs/data_license.txt", "models/model.pt"):
        assert (BUNDLE / name).is_file(), name
    files = subprocess.run(["git", "-C", str(BUNDLE), "ls-files"], capture_output=True, text=True, check=True).stdout
    large = [name for name in files.split() if (BUNDLE / name).stat().st_size > 25 * 2**20]
    listed = BUNDLE / "large_files.yml"
    known = yaml.safe_load(listed.read_text())["large_files"] if listed.is_file() else []
    assert large == [entry["path"] for entry in known]


def test_metadata_name_the_channels_of_the_network():
    channels = METADATA["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert channels == {str(index): name for index, name in enumerate(CLASSES)}


def test_the_docs_follow_the_template():
    headings = re.findall(r"^#+ (.+)$", (BUNDLE / "docs" / "README.md").read_text(), re.M)
    wanted = ["Model overview", "Data", "Preprocessing", "Training configuration", "Input", "Output", "Performance"]
    assert [name for name in headings if name in wanted] == wanted
    assert {"Commands", "Limits", "References", "License"} <= set(headings)


@pytest.mark.parametrize("module", [f"test_{NAME}", f"test_{NAME}_dist"])
def test_the_zoos_unit_tests_pass_in_a_checkout(module, tmp_path):
    shutil.copytree(BUNDLE, tmp_path / "models" / NAME, ignore=shutil.ignore_patterns("__pycache__", "eval"))
    shutil.copytree(ZOO, tmp_path / "ci" / "unit_tests")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "ci" / "unit_tests"), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "unittest", "-v", module]
    result = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-4000:]
