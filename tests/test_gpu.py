"""The prepared script of measurements on a GPU runs, in tiny sizes, where there is none."""

import json
import os
import subprocess
import sys

import pytest

from conftest import BUNDLE


@pytest.mark.slow
def test_every_row_is_measured_where_sizes_are_tiny(tmp_path):
    script = BUNDLE.parent / "benchmarks" / "gpu.py"
    command = [sys.executable, script, "--output", tmp_path / "gpu.json", "--repeats", "1", "--tiny", "True"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = found["steps"] | found["predictions"]
    assert len(found["steps"]) == len(found["predictions"]) == 2
    assert all(row["s"] > 0 and "failed" not in row for row in rows.values())
    assert "patients a second" in done.stdout and "times floor" in done.stdout
