"""Several real processes (gloo) learn the same as one process, and end together."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import BUNDLE, METHOD, TINY, TINY_TEACHERS, wait_for_epochs
from scripts.data.make_datalist import make_datalist
from scripts.data.phantom import make_phantoms

# Nothing random in data or order, so that processes and batches can be compared. All ranks write their last state.
# One memory layout, because another one rounds differently and a voxel of these networks may change class (Dice 2e-4).
# SGD, because Adam divides by the size of a gradient, and biases before a normalisation only have rounding errors.
FIXED = """
patches:
  _target_: Compose
  transforms:
  - {_target_: SpatialPadd, keys: "@spatial_keys", spatial_size: "@roi_size"}
  - {_target_: CenterSpatialCropd, keys: "@spatial_keys", roi_size: "@roi_size"}
  - {_target_: SelectItemsd, keys: "@spatial_keys"}
  - {_target_: EnsureTyped, keys: "@spatial_keys", track_meta: false}
augmentation: null
channels_last: false
train::dataloader::shuffle: false
lr_scheduler: {_target_: torch.optim.lr_scheduler.ConstantLR, optimizer: "@optimizer", factor: 1.0, total_iters: 0}
optimizer:
  _target_: torch.optim.SGD
  params:
    _target_: scripts.method.distillation.parameter_groups
    network: "@distillation"
    student: {lr: 0.05}
    teachers: {lr: 0.05}
  momentum: 0.9
state: $[@distillation.state_dict(), @confidence.state_dict(), @validate::evaluator.state.metric_details]
+training:
- $torch.save(@state, @output_dir + '/rank' + str(@rank) + '.pt')
"""
ORDERED = """
train::sampler:
  _target_: DistributedSampler
  dataset: "@train::dataset"
  num_replicas: $idist.get_world_size()
  rank: "@rank"
  even_divisible: true
  shuffle: false
"""
GAPS = """
patches:
  _target_: Compose
  transforms:
  - {_target_: SpatialPadd, keys: "@spatial_keys", spatial_size: "@roi_size", allow_missing_keys: true}
  - {_target_: CenterSpatialCropd, keys: "@spatial_keys", roi_size: "@roi_size", allow_missing_keys: true}
  - {_target_: SelectItemsd, keys: "@spatial_keys", allow_missing_keys: true}
  - {_target_: EnsureTyped, keys: "@spatial_keys", track_meta: false, allow_missing_keys: true}
  - {_target_: scripts.data.transforms.FillGapsd, keys: "@spatial_keys"}
"""
POISON = """
segmentation: {_target_: test_distributed.Poisoned}
"""


class Poisoned(torch.nn.Module):
    """A segmentation loss that is NaN on rank 1 after some epochs (a mock of a fault)."""

    calls = 0

    def forward(self, logits, label):
        Poisoned.calls += 1
        late = Poisoned.calls > 40 and os.environ["RANK"] == "1"
        return logits.square().mean() * (float("nan") if late else 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven phantom patients, four to train on and three to validate on: no two ranks get the same number."""
    folder = tmp_path_factory.mktemp("seven")
    make_phantoms(str(folder / "data"), cases=7, size=32, seed=3)
    make_datalist(str(folder / "data"), str(folder / "datalist.json"), folds=2)
    document = json.loads((folder / "datalist.json").read_text())
    for index, entry in enumerate(document["training"]):
        entry["fold"] = int(index >= 3)
    (folder / "datalist.json").write_text(json.dumps(document))
    for name, text in {"fixed": FIXED, "ordered": ORDERED, "poison": POISON}.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def start(data, out, overlays, processes, *options, launcher=("--standalone",)):
    files = [*METHOD, *(["configs/multi_gpu_train.yaml"] if processes else []), *map(str, overlays)]
    torchrun = ["torch.distributed.run", *launcher, f"--nproc_per_node={processes}", "-m"]
    line = [
        sys.executable, "-m", *(torchrun if processes else []), "monai.bundle", "run", "training",
        "--config_file", str(files), *TINY, *TINY_TEACHERS, "--dataset_dir", str(data / "data"),
        "--datalist", str(data / "datalist.json"), "--output_dir", str(out), "--ckpt_dir", str(out / "models"),
        "--val_interval", "1", *options,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    if any("--max-restarts" in option for option in launcher):
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else restarted workers meet the dead ones' addresses
    log = open(f"{out}.log", "a")  # noqa: SIM115 the process keeps it open
    return subprocess.Popen(line, cwd=BUNDLE, env=environment, stdout=log, stderr=subprocess.STDOUT)


def succeed(process, out):
    assert process.wait(timeout=240) == 0, Path(f"{out}.log").read_text()[-3000:]


def finish(process, out):
    succeed(process, out)
    return [torch.load(path, weights_only=False) for path in sorted(out.glob("rank*.pt"))]


def lines_of_epochs(out, epochs):
    """Check that the log has one line an epoch, with the row of history.csv in short, and no line of ignite's."""
    log = Path(f"{out}.log").read_text()
    lines = re.findall(r"epoch (\d+)/\d+, loss ([\d.]+), Dice WT ([\d.]+) TC [\d.]+ ET [\d.]+, .* left\n", log)
    wanted = [
        (row["epoch"], f"{float(row['loss/total']):.4f}", f"{float(row['validation/dice/WT']):.3f}")
        for row in history(out)
    ]
    assert lines == wanted and len(wanted) == epochs
    assert not re.search("Engine run|Epoch\\[|Metrics", log)


def largest_difference(states, others):
    return max(float((value.double() - others[name].double()).abs().max()) for name, value in states.items())


def history(out):
    with open(out / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def one_process(data, tmp_path_factory):
    """Three epochs of two steps, batches of two patients, in one process."""
    out = tmp_path_factory.mktemp("runs") / "one"
    process = start(data, out, [data / "fixed.yaml"], 0, "--epochs", "3", "--batch_size", "2")
    return out, finish(process, out)[0]


def test_two_processes_learn_what_one_learns_from_the_same_batches(data, one_process, tmp_path):
    out, overlays = tmp_path / "two", [data / "fixed.yaml", data / "ordered.yaml"]
    ranks = finish(start(data, out, overlays, 2, "--epochs", "3", "--batch_size", "1"), out)
    expected_out, expected = one_process
    assert len(ranks) == 2
    for network, confidence, details in ranks:
        assert largest_difference(network, expected[0]) < 1e-5  # after six steps
        assert largest_difference(confidence, expected[1]) < 1e-5
        dice = details["val_mean_dice"]
        assert dice.shape == (3, 3)  # every patient once, though two ranks cannot share three evenly
        # by region, in whatever order of patients; a voxel at a tie may turn
        for found, wanted in zip(dice.T, expected[2]["val_mean_dice"].T):
            assert sorted(found.tolist()) == pytest.approx(sorted(wanted.tolist()), abs=1e-3)
    assert all(torch.equal(ranks[0][i][name], ranks[1][i][name]) for i in (0, 1) for name in ranks[0][i])
    files = ["checkpoint.pt", "checkpoint_before.pt", "model.pt"]
    assert sorted(path.name for path in (out / "models").iterdir()) == files
    assert float(ranks[0][1]["weights"].min()) > 0.001
    for folder in (out, expected_out):
        lines_of_epochs(folder, 3)
    for row, wanted in zip(history(out), history(expected_out)):
        for name in ("loss/total", "weight/flair", "dice/t1", "validation/dice/WT"):
            assert float(row[name]) == pytest.approx(float(wanted[name]), abs=1e-4)


@pytest.mark.slow
def test_two_processes_with_uneven_gaps_learn_what_one_learns(data, tmp_path):
    """In most steps one process has a label or a teacher that the other has not."""
    document = json.loads((data / "datalist.json").read_text())
    for entry, gaps in zip(document["training"][3:], [(), ("label", "t1"), ("flair",), ("flair", "t2", "t1")]):
        for key in gaps:
            del entry[key]
    (tmp_path / "datalist.json").write_text(json.dumps(document))
    (tmp_path / "gaps.yaml").write_text(GAPS)
    overlays = [data / "fixed.yaml", tmp_path / "gaps.yaml"]
    options = ["--datalist", str(tmp_path / "datalist.json"), "--epochs", "3"]
    runs = {}
    for processes in (0, 2):
        out = tmp_path / f"processes{processes}"
        process = start(data, out, overlays, processes, *options, "--batch_size", "1" if processes else "2")
        runs[processes] = out, finish(process, out)
    (out, ranks), (expected_out, (expected,)) = runs[2], runs[0]
    for network, confidence, _ in ranks:
        assert all(value.isfinite().all() for value in network.values())
        assert largest_difference(network, expected[0]) < 1e-5  # after six steps
        assert largest_difference(confidence, expected[1]) < 1e-5
    for row, wanted in zip(history(out), history(expected_out), strict=True):
        for name in wanted:
            if name.startswith(("loss/", "weight/", "dice/")):
                assert float(row[name]) == pytest.approx(float(wanted[name]), abs=1e-4), name


@pytest.mark.slow
def test_two_nodes_learn_what_one_process_learns(data, one_process, free_port, tmp_path):
    """Two torchruns of one process each, that meet at an address; only rank 0 is followed in MLflow."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is an extra: pip install '.[track]'")
    out, overlays = tmp_path / "nodes", [data / "fixed.yaml", data / "ordered.yaml"]
    meeting = ["--nnodes=2", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{free_port()}"]
    store = f"sqlite:///{tmp_path}/mlflow.db"
    options = ["--epochs", "3", "--batch_size", "1", "--mlflow_uri", store]
    nodes = [start(data, out, overlays, 1, *options, launcher=meeting) for _ in range(2)]
    ranks = [finish(node, out) for node in nodes][1]
    assert len(ranks) == 2
    assert all(largest_difference(network, one_process[1][0]) < 1e-5 for network, _, _ in ranks)
    tracked = mlflow.MlflowClient(store)
    (run,) = tracked.search_runs([tracked.get_experiment_by_name("mtcm_kd").experiment_id])
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_nodes_that_do_not_share_their_checkpoint_stop(data, two_epochs, free_port, tmp_path):
    meeting = ["--nnodes=2", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{free_port()}"]
    options = ["--epochs", "3", "--resume", "auto"]
    outs = [tmp_path / "first", tmp_path / "second"]
    shutil.copytree(two_epochs, outs[0])
    nodes = [start(data, out, [], 1, *options, launcher=meeting) for out in outs]
    assert all(node.wait(timeout=240) for node in nodes)
    logs = {out: Path(f"{out}.log").read_text() for out in outs}
    said = [out for out, log in logs.items() if f"{out}/models/checkpoint.pt" in log and "ckpt_dir" in log]
    assert said  # torchrun ends the other node as soon as one has ended, maybe before it has said so too
    assert not any("Resumed" in log for log in logs.values())


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_accumulated_gradients_are_those_of_a_larger_batch(processes, data, one_process, tmp_path):
    """One patient a step and process, two steps an update: with one process the batches of two above."""
    out = tmp_path / "accumulated"
    overlays = [data / "fixed.yaml", *([data / "ordered.yaml"] if processes else [])]
    options = ["--batch_size", "1", "--accumulation_steps", "2", "--epochs", "3"]
    ranks = finish(start(data, out, overlays, processes, *options), out)
    if processes:
        assert all(torch.equal(ranks[0][0][name], ranks[1][0][name]) for name in ranks[0][0])
        whole = tmp_path / "whole"
        wanted = finish(start(data, whole, [data / "fixed.yaml"], 0, "--batch_size", "4", "--epochs", "3"), whole)[0]
    else:
        wanted = one_process[1]
    assert largest_difference(ranks[0][0], wanted[0]) < 1e-5


def kill_a_rank(process, out):
    """Kill the second worker of a torchrun when the checkpoint of an epoch is there."""
    wait_for_epochs(out, 2, process)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {
        dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry).get(
            "RANK"
        ): int(pid)
        for pid in workers
    }
    os.kill(ranks["1"], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker by /proc")
def test_a_rank_that_dies_ends_the_run_and_leaves_its_checkpoint(data, tmp_path):
    out = tmp_path / "dies"
    process = start(data, out, [], 2, "--epochs", "1000")
    kill_a_rank(process, out)
    assert process.wait(timeout=60) != 0
    epoch = torch.load(out / "models" / "checkpoint.pt", weights_only=True)["trainer"]["iteration"]  # one step an epoch
    assert not list((out / "models").glob(".part_*"))
    options = ["--epochs", str(epoch + 1), "--resume", "True"]
    assert start(data, out, [], 0, *options).wait(timeout=120) == 1
    assert "number of processes is 1, but" in Path(f"{out}.log").read_text()
    succeed(start(data, out, [], 2, *options), out)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker by /proc")
def test_torchrun_restarts_and_resumes(data, tmp_path):
    out = tmp_path / "restarts"
    options = ["--epochs", "12", "--resume", "auto"]
    process = start(data, out, [], 2, *options, launcher=["--standalone", "--max-restarts=1"])
    kill_a_rank(process, out)
    succeed(process, out)
    assert "Resumed" in Path(f"{out}.log").read_text()
    assert [row["epoch"] for row in history(out)] == [str(epoch) for epoch in range(1, 13)]


@pytest.fixture(scope="module")
def two_epochs(data, tmp_path_factory):
    """The folder of two epochs of two processes."""
    out = tmp_path_factory.mktemp("cut") / "whole"
    succeed(start(data, out, [], 2, "--epochs", "2"), out)
    return out


@pytest.mark.slow
def test_two_processes_fall_back_on_the_checkpoint_before_one_that_is_cut(data, two_epochs, tmp_path):
    """Both repeat the last epoch, and end with the weights that the whole run had, bit for bit."""
    out = tmp_path / "cut"
    shutil.copytree(two_epochs, out)
    checkpoint = out / "models" / "checkpoint.pt"
    expected = torch.load(checkpoint, weights_only=True)
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    succeed(start(data, out, [], 2, "--epochs", "2", "--resume", "auto"), out)
    log = Path(f"{out}.log").read_text()
    assert f"{checkpoint} is damaged" in log and "checkpoint_before.pt" in log
    found = torch.load(checkpoint, weights_only=True)
    for name in ("distillation", "confidence"):
        assert all(torch.equal(value, found[name][key]) for key, value in expected[name].items()), name
    assert found["trainer"] == expected["trainer"]
    assert [row["epoch"] for row in history(out)] == ["1", "2"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_ends_all(data, tmp_path):
    out = tmp_path / "poisoned"
    options = ["--epochs", "50", "--batch_size", "1", "--accumulation_steps", "2", "--amp", "True"]
    process = start(data, out, [data / "poison.yaml"], 2, *options)
    assert process.wait(timeout=120) != 0
    log = Path(f"{out}.log").read_text()
    assert "--learning_rate" in log
    weights = torch.load(out / "models" / "checkpoint.pt", weights_only=True)["distillation"]
    assert all(torch.isfinite(value).all() for value in weights.values())
