"""Trainings of several arms, seeds and folds, many at a time on one device: a plan such as arms.yaml beside this.

python experiments/arms.py --dataset_dir DIR --output_dir OUT [--plan experiments/arms.yaml] [--jobs 2]
  [--seconds 36000]

An arm is a named set of overlays and options. A run is the training of an arm and, where a fold is held out, its
evaluation, in OUT/LIST/ARM_sSEED/fold_K, in the plan's order. Run it again to go on: a finished run is kept (and
rejected if the plan has changed since), an interrupted one resumes from its checkpoint. On one GPU several processes
share it better under NVIDIA's MPS (start nvidia-cuda-mps-control -d before).
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # of each run; before torch is imported

import monai.engines  # noqa: F401, for all runs: they are forked
import yaml
from monai.utils import ensure_tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.command import run_command
from scripts.data.make_datalist import make_datalist
from scripts.errors import UserError
from scripts.files import read_json, write_json
from scripts.labels import SEQUENCES
from scripts.workflow import workflow_line

BUNDLE = Path(sys.path[0])


class Run:
    """The commands of one run, one after another.

    Args:
        folder: where its files go, and its log.
        commands: what follows ``python -m``.
        after: folders of runs that must be done before, such as the kept teachers'.
        listed: the options of its datalist.
    """

    def __init__(
        self, folder: Path, commands: Sequence[list[str]], after: Sequence[Path] = (), listed: object = None
    ) -> None:
        self.folder, self.waiting, self.after = folder, list(commands), list(after)
        lines = [f"# datalist: {listed}", *map(shlex.join, commands)]
        self.record = "".join(f"{line}\n" for line in lines)  # kept in the file "done"
        self.process: ForkProcess | None = None
        self.failed = False

    @property
    def done(self) -> bool:
        return (self.folder / "done").is_file()

    def reject_other(self) -> None:
        """Raises UserError if the folder holds what other commands have done."""
        if self.done and (self.folder / "done").read_text() != self.record:
            raise UserError(f"{self.folder} was done by another plan: give another output_dir, or delete the folder.")

    def ready(self) -> bool:
        due = all((folder / "done").is_file() for folder in self.after)
        return due and not (self.process or self.done or self.failed)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fork = multiprocessing.get_context("fork")  # of a process that has imported MONAI, which takes ten seconds
        self.process = fork.Process(target=in_bundle, args=(self.waiting.pop(0), self.folder / "log.txt"))
        self.process.start()

    def go_on(self) -> bool:
        """Start the next command where one has ended well; whether any runs."""
        if self.process is None or self.process.is_alive():
            return self.process is not None
        self.failed, self.process = self.process.exitcode != 0, None
        if not self.failed and self.waiting:
            self.start()
            return True
        if not self.failed:
            (self.folder / "done").write_text(self.record)
        print(f"{self.folder}: {'failed, see log.txt' if self.failed else 'done'}", flush=True)
        return False


def in_bundle(command: Sequence[str], log: Path) -> None:
    """``python -m`` in this process, from the bundle's folder."""
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(BUNDLE)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def arms(
    dataset_dir: str,
    output_dir: str,
    plan: str = str(Path(__file__).with_suffix(".yaml")),
    jobs: int = 2,
    seconds: float = 36000,
) -> None:
    """Run the plan, ``jobs`` trainings at a time; after so many seconds those that still run are cut short.

    Ends with code 1 unless all runs are done.
    """
    end = time.time() + seconds
    out, data = Path(output_dir).resolve(), Path(dataset_dir).resolve()
    settings = read_plan(plan)
    out.mkdir(parents=True, exist_ok=True)
    for name, options in settings["lists"].items():
        make_list(out / f"{name}.json", data, options)
    runs = list(planned(settings, data, out))
    for run in runs:
        run.reject_other()
    running: list[Run] = []
    while time.time() < end:
        running = [run for run in running if run.go_on()]
        ready = [run for run in runs if run.ready()]
        if not (running or ready):
            break
        for run in ready[: max(jobs - len(running), 0)]:
            run.start()
            running.append(run)
        time.sleep(0.1)
    for run in running:
        if run.process is not None:
            run.process.terminate()
    left = [str(run.folder) for run in runs if not run.done]
    if left:
        raise SystemExit(f"{len(left)} of {len(runs)} runs are not done: {', '.join(left)}.")


def read_plan(path: str) -> dict[str, Any]:
    """The plan as it stands in the file."""
    if not Path(path).is_file():
        raise UserError(f"plan is {path!r}, which is no file: give one such as experiments/arms.yaml.")
    return yaml.safe_load(Path(path).read_text())


def make_list(path: Path, data: Path, options: Mapping[str, Any]) -> None:
    """The datalist; one that is there must be the same, since runs may have used it.

    Args:
        path: of the list.
        data: folder of the patients.
        options: make_datalist's, and of ours ``labels_of``, the folds that keep their labels, ``held_out``: a regular
            expression (cases with such a name are fold 0, all others fold 1), and ``folders``: options by folder of
            ``data``. Its lists are joined, and the folds of each come after those of the one before.
    """
    new = path.with_suffix(".new.json")
    own = {key: value for key, value in options.items() if key not in ("labels_of", "held_out", "folders")}
    folders = options.get("folders", {".": own})
    documents = [listed(data, folder, new, part) for folder, part in folders.items()]
    document, entries = documents[0], []
    for folder, part in zip(folders, documents):
        if part["labels"] != document["labels"]:
            raise UserError(
                f"labels of {data / folder} mean {part['labels']}, and of {data / next(iter(folders))} "
                f"{document['labels']}: relabel one (experiments/relabel.py), or leave it out of the plan."
            )
    for part in documents:
        first = 1 + max((entry.get("fold", -1) for entry in entries), default=-1)
        entries += [entry | {"fold": entry["fold"] + first} if "fold" in entry else entry for entry in part["training"]]
    if "held_out" in options:
        entries = [entry | {"fold": int(not re.search(options["held_out"], entry["case"]))} for entry in entries]
    if "labels_of" in options:
        hide_labels(entries, options["labels_of"])
    write_json(new, document | {"training": entries})
    if path.is_file() and path.read_bytes() != new.read_bytes():
        new.unlink()
        raise UserError(f"{path} is not what the plan and {data} give now: give another output_dir, or delete it.")
    new.replace(path)


def listed(data: Path, folder: str, path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The datalist of a folder of ``data``, with paths below ``data``."""
    split = {"split": str(data / folder / options["split"])} if "split" in options else {}
    make_datalist(str(data / folder), str(path), **{**options, **split})
    document = read_json(str(path), "datalist")
    path.with_suffix(".checked.json").unlink(missing_ok=True)
    path.unlink()
    for entry in document["training"]:
        for key in {"image", "label", *SEQUENCES} & entry.keys():
            entry[key] = str(Path(folder, entry[key]))
    return document


def hide_labels(entries: Sequence[dict[str, Any]], folds: Sequence[int]) -> None:
    """Leave labels to the cases of these folds alone; the others become unlabelled patients, for every training."""
    for entry in entries:
        if entry["fold"] not in folds:
            del entry["label"], entry["fold"]


def planned(settings: Mapping[str, Any], data: Path, out: Path) -> Iterator[Run]:
    """The plan's runs in its order."""
    for entry in settings["runs"]:
        for seed in entry.get("seeds", [0]):
            for fold in entry["folds"]:
                for name in entry["arms"]:
                    yield make_run(settings, data, out / entry["list"], name, seed, fold)


def make_run(settings: Mapping[str, Any], data: Path, listed: Path, name: str, seed: int, fold: int | None) -> Run:
    """An arm on a fold of the datalist ``listed``.json, or on all its patients (None), in a folder of ``listed``."""
    arm = settings["arms"][name]
    part = "all" if fold is None else f"fold_{fold}"
    folder = listed / f"{name}_s{seed}" / part
    kept = {option: listed / f"{teacher}_s0" / part for option, teacher in arm.get("kept", {}).items()}
    both = {"dataset_dir": data, "datalist": listed.with_suffix(".json"), "fold": "$None" if fold is None else fold}
    both |= {"num_workers": 0, **settings.get("both", {}), **arm.get("both", {})}
    training = {"output_dir": folder, "seed": seed, "cache": "memory", "resume": "auto"}
    training |= {**settings["training"], **arm.get("training", {})}
    training |= {option: teacher / "models" / "model.pt" for option, teacher in kept.items()}
    taught = [listed / run / part for run in ensure_tuple(arm.get("targets", ()))]
    predicted = [str(teacher / "predictions") for teacher in taught]
    blended = ["blend", "--folders", ",".join(predicted), "--output_dir", str(folder / "targets")]
    training |= {"targets": blended[-1] if len(taught) > 1 else predicted[0]} if taught else {}
    overlays = arm.get("overlays", [])
    commands = [workflow("training", [*overlays, *arm.get("training_overlays", [])], both | training)]
    commands = [blended, *commands] if len(taught) > 1 else commands
    if fold is not None:
        options = {**both, "output_dir": folder, **settings["evaluating"]}
        commands.append(workflow("evaluating", [*overlays, *arm.get("evaluating_overlays", []), "evaluate"], options))
    if arm.get("predicts"):
        options = {key: value for key, value in both.items() if key not in ("fold", "num_workers")}
        options |= {"ckpt_path": folder / "models" / "model.pt", "output_dir": folder / "predictions"}
        commands.append(workflow("evaluating", overlays, options | {"probabilities": True}, "inference"))
    return Run(folder, commands, [*kept.values(), *taught], settings["lists"][listed.name])


def workflow(run_id: str, overlays: Sequence[str], options: Mapping[str, Any], first: str = "train") -> list[str]:
    """What follows ``python -m``; overlays are names of the bundle's configs, or paths from its folder."""
    files = [name if "/" in name else f"configs/{name}.yaml" for name in (first, *overlays)]
    line = workflow_line(run_id, files, options)
    return line[line.index("-m") + 1 :]


if __name__ == "__main__":
    run_command(arms)
