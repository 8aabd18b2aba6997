"""Share a bundle: upload to Hugging Face (recorded), download as a zip from a local server, load in Python."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from monai.bundle import push_to_hf_hub
from monai.bundle import scripts as bundle_scripts

from conftest import BUNDLE

NAME = "brats_t1ce_kd_segmentation"
pytestmark = pytest.mark.zoo
VERSION = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["version"]


@pytest.fixture
def shared(tmp_path):
    """A copy of the bundle under its name, in a folder of its own."""
    leave = shutil.ignore_patterns("__pycache__", "eval")
    shutil.copytree(BUNDLE, tmp_path / "out" / NAME, ignore=leave)
    return tmp_path / "out"


def test_hugging_face_gets_a_model_card_and_all_files(shared, monkeypatch):
    """A recorder stands in for the hub, which needs an account."""
    seen = {}

    class Recorder:
        def create_repo(self, **options):
            seen["repo"] = options["repo_id"]

        def upload_folder(self, folder_path, **options):
            seen["files"] = {str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*")}
            seen["card"] = Path(folder_path, "README.md").read_text()
            return ""

        def create_tag(self, tag, **options):
            seen.setdefault("tags", []).append(tag)

    hub = type("Hub", (), {"HfApi": lambda **options: Recorder()})
    monkeypatch.setattr(bundle_scripts, "huggingface_hub", hub)
    repo = f"someone/{NAME}"
    push_to_hf_hub(repo=repo, name=NAME, bundle_dir=str(shared), version=VERSION, tag_as_latest_version=True)
    assert seen["repo"] == repo and seen["tags"] == [VERSION, "latest_version"]
    assert seen["card"].startswith("---\ntags:\n- monai\n- medical\nlibrary_name: monai\nlicense: apache-2.0\n---\n")
    assert {"LICENSE", "configs/inference.yaml", "models/model.pt", "scripts/method/resunet.py"} <= seen["files"]


@pytest.fixture
def address(shared, tmp_path):
    """The bundle as a zip on a server on loopback."""
    shutil.make_archive(str(tmp_path / "zips" / f"{NAME}_v{VERSION}"), "zip", shared, NAME)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "zips")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/{NAME}_v{VERSION}.zip"
    server.shutdown()


def test_a_downloaded_bundle_is_loaded_by_the_lines_of_the_docs(address, tmp_path, command):
    result = command("monai.bundle", "download", "--name", NAME, "--bundle_dir", tmp_path / "got", "--url", address)
    assert result.returncode == 0, result.stderr[-2000:]
    docs = (BUNDLE / "docs" / "README.md").read_text()
    (lines,) = re.findall(r"^((?:    .*\n)*    .*load\(.*\n(?:    .*\n)*)", docs, re.M)
    code = "\n".join(line[4:] for line in lines.splitlines()).replace("NAME", NAME)
    code += "\nimport torch; torch.save(network.state_dict(), 'loaded.pt')"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "got", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    got, wanted = (
        torch.load(path, weights_only=True) for path in (tmp_path / "got" / "loaded.pt", BUNDLE / "models" / "model.pt")
    )
    assert got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)
