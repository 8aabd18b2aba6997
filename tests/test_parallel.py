import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest

from conftest import BUNDLE
from scripts import environment
from scripts.data import checks
from scripts.data.checked_files import CheckedFiles
from scripts.data.phantom import make_phantoms
from scripts.errors import UserError
from scripts.evaluation.parallel import FEWEST, choose_workers, map_in_order
from scripts.evaluation.score import score
from scripts.settings.declaration import RULES


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Five phantom patients as truth, and the truth of others as their prediction."""
    folder = tmp_path_factory.mktemp("parallel")
    make_phantoms(str(folder / "truth"), cases=5, size=32, seed=1)
    labels = sorted((folder / "truth").rglob("*_seg.nii.gz"))
    (folder / "pred").mkdir()
    for label, other in zip(labels, [*labels[1:], labels[0]]):
        (folder / "pred" / label.name).write_bytes(other.read_bytes())
    return folder


def test_results_have_the_order_of_the_items_and_come_from_other_processes_without_torch():
    waits = ["__import__('time').sleep(0.3) or 0", "1", "2", "3", "4"]
    assert list(map_in_order(eval, waits, 2)) == [0, 1, 2, 3, 4]
    process = "__import__('os').getpid()"
    loaded = "__import__('scripts.evaluation.score') and 'torch' in __import__('sys').modules"
    other, torch = map_in_order(eval, [process, loaded], 2)
    assert other != os.getpid() and not torch
    assert list(map_in_order(eval, [process], 1)) == [os.getpid()]


def test_the_number_of_processes():
    assert choose_workers(3, 2) == 2 and choose_workers(3, 9) == 3 and choose_workers(1, 99) == 1
    assert choose_workers(0, FEWEST) == choose_workers(0, 0) == choose_workers(5, 0) == 1
    cores = environment.cores()
    assert choose_workers(0, 1000 * cores) == cores and choose_workers(0, 2 * FEWEST) == min(cores, 2)


def test_only_cores_that_the_process_may_use_are_counted(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)  # as taskset and Slurm do
    assert environment.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert environment.cores() == 64


@pytest.mark.parametrize("cores, together, loading", [(1, 1, 0), (4, 1, 2), (64, 1, 8), (64, 8, 6), (16, 8, 0)])
def test_processes_that_train_together_share_the_cores_for_loading(cores, together, loading, monkeypatch):
    monkeypatch.setattr(environment, "cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(together))
    assert environment.loading_processes() == loading


@pytest.mark.parametrize("length, processes", [(75, 2), (76, 0)])
def test_loading_processes_need_room_for_their_sockets(length, processes, monkeypatch, caplog):
    """With a longer path a training printed tracebacks and waited for ever."""
    monkeypatch.setattr(environment, "cores", lambda: 4)
    monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * (length - 1))
    assert environment.loading_processes() == processes and ("TMPDIR" in caplog.text) == (processes == 0)
    rule, expected = RULES["num_workers"]
    assert rule(2) == bool(processes) and rule(0) and "TMPDIR" in expected


@pytest.mark.parametrize("cores, threads", [(3, 3), (64, 16)])
def test_checks_take_a_thread_a_core_and_at_most_sixteen(cores, threads, monkeypatch):
    taken = []
    monkeypatch.setattr(checks, "cores", lambda: cores)
    monkeypatch.setattr(checks, "ThreadPoolExecutor", lambda count: taken.append(count) or ThreadPoolExecutor(count))
    jobs = [{"name": name, "files": {}, "roles": ["t1ce"], "labels": set()} for name in "ab"]
    assert len(checks.check_cases(jobs, CheckedFiles())) == 2
    assert taken == [threads]


def test_a_killed_process_is_named_in_a_sentence():
    with pytest.raises(UserError, match=r"killed.*--workers"):
        list(map_in_order(eval, ["__import__('os').kill(__import__('os').getpid(), 9)"] * 3, 2))
    assert multiprocessing.active_children() == []


def test_any_number_of_workers_writes_the_same_bytes(phantoms):
    written = []
    for workers in (1, 3):
        path = phantoms / f"{workers}.csv"
        score(str(phantoms / "pred"), str(phantoms / "truth"), str(path), workers=workers)
        written.append([path.read_bytes(), path.with_suffix(".json").read_bytes()])
    assert written[0] == written[1]
    assert [line.split(b",")[0] for line in written[0][0].splitlines()[1::3]] == [b"phantom_%04d" % i for i in range(5)]


@pytest.mark.parametrize("spoilt, said", [("nothing", "1 fault(s)"), ("ET is 3", "nothing tells whether 4 is ET")])
def test_any_number_of_workers_gives_the_same_errors(spoilt, said, phantoms, tmp_path):
    shutil.copytree(phantoms / "pred", tmp_path / "pred")
    path = tmp_path / "pred" / "phantom_0002_seg.nii.gz"
    label = nib.load(path)
    voxels = np.asarray(label.dataobj)
    nib.save(nib.Nifti1Image(np.where(voxels == 4, 3, voxels).astype(np.uint8), label.affine), path)
    if spoilt == "nothing":
        path.write_bytes(b"nothing")
    sentences = []
    for workers in (1, 2):
        with pytest.raises(UserError, match="phantom_0002") as error:
            score(str(tmp_path / "pred"), str(phantoms / "truth"), str(tmp_path / "m.csv"), workers=workers)
        sentences.append(str(error.value))
    assert sentences[0] == sentences[1] and said in sentences[0]
    assert not (tmp_path / "m.csv").exists()


def test_a_script_that_does_not_ask_for_its_name_is_not_run_by_the_processes(phantoms, tmp_path):
    line = f"score({str(phantoms / 'pred')!r}, {str(phantoms / 'truth')!r}, {str(tmp_path / 'm.csv')!r}, workers=2)"
    script = tmp_path / "script.py"
    script.write_text(f"from scripts.evaluation.score import score\nprint('begun')\n{line}\n")
    environment = {**os.environ, "PYTHONPATH": str(BUNDLE)}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("begun") == 1 and (tmp_path / "m.csv").exists()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX signals")
@pytest.mark.parametrize("group", [True, False], ids=["as a terminal does", "the command alone"])
def test_ctrl_c_stops_all_processes_without_a_traceback(group, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import signal, sys\nfrom scripts.errors import print_sentence\n"
        "from scripts.evaluation.parallel import map_in_order\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell in the background has it ignored
        "sys.excepthook = print_sentence\n"
        f"wait = \"open({str(tmp_path)!r} + '/' + str(__import__('os').getpid()) + '.pid', 'w') and "
        "__import__('time').sleep(0.7)\"\nlist(map_in_order(eval, [wait] * 99, 2))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(BUNDLE)}
    process = subprocess.Popen(
        [sys.executable, script], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(found := [int(path.stem) for path in tmp_path.glob("*.pid")]) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == "Stopped.\n"
    assert not any(map(is_running, found))


def is_running(pid):
    """Whether a process works, after a moment to end."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def test_scoring_processes_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "work.py").write_text(
        "import os, time\ndef work(folder):\n    open(f'{folder}/{os.getpid()}.pid', 'w').close()\n    time.sleep(60)\n"
    )
    code = "import sys, work, scripts.evaluation.parallel as p; [*p.map_in_order(work.work, sys.argv[1:], 2)]"
    environment = {**os.environ, "PYTHONPATH": f"{BUNDLE}{os.pathsep}{tmp_path}"}
    process = subprocess.Popen([sys.executable, "-c", code, *[str(tmp_path)] * 2], env=environment)
    while len(found := [int(path.stem) for path in tmp_path.glob("*.pid")]) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not any(map(is_running, found))
