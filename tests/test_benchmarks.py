"""The benchmarks run, in tiny sizes."""

import json
import os
import subprocess
import sys

import pytest

from conftest import BUNDLE

BENCHMARKS = BUNDLE.parent / "benchmarks"


@pytest.mark.slow
def test_a_training_step_is_timed_beside_the_plain_loop(cohort_source):
    line = f"from step import step; print(step({str(cohort_source / 'data')!r}, 24, 2, [4, 4, 8, 8], 1))"
    environment = os.environ | {"PYTHONPATH": f"{BENCHMARKS}:{BUNDLE}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "plain loop" in done.stdout


@pytest.mark.slow
def test_every_row_of_the_gpu_script_is_measured(tmp_path):
    script = BENCHMARKS / "gpu.py"
    command = [sys.executable, script, "--output", tmp_path / "gpu.json", "--repeats", "1", "--tiny", "True"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = found["steps"] | found["predictions"]
    assert len(found["steps"]) == len(found["predictions"]) == 2
    assert all(row["s"] > 0 and "failed" not in row for row in rows.values())
    assert "patients a second" in done.stdout and "times floor" in done.stdout
