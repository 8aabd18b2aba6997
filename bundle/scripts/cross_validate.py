"""Train and evaluate every fold, one after another, and score all patients out of fold in one table.

python -m scripts.cross_validate --config_file configs/train.yaml --dataset_dir DIR --output_dir OUT [--folds 5]
  [--datalist FILE] [--processes 1] [--KEY VALUE ...]

Run it again to go on where it stopped: finished folds are kept, a fold cut short resumes from its checkpoint.
"""

from __future__ import annotations

import json
import logging
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from scripts.command import run_command
from scripts.datalist import make_datalist
from scripts.errors import UserError
from scripts.loading import read_json
from scripts.overrides import refuse_unknown_keys
from scripts.records import read_table, write_json, write_table
from scripts.summary import CaseScore, Scores, print_table, read_scores, write_scores
from scripts.tracking import send_cross_validation

__all__ = ["collect", "cross_validate"]

logger = logging.getLogger(__name__)

OWN = ("fold", "ckpt_dir", "ckpt_path", "resume")  # keys that are set for each fold


def cross_validate(
    config_file: str | Sequence[str],
    dataset_dir: str,
    output_dir: str,
    folds: int | None = None,
    datalist: str = "",
    processes: int = 1,
    **overrides: Any,
) -> None:
    """Run ``training`` and ``evaluating`` for each fold in OUT/fold_K, then collect OUT/metrics.csv.

    Args:
        config_file: the config files of the training, train.yaml first.
        dataset_dir: the patients.
        output_dir: OUT. Training goes to OUT/fold_K, its checkpoints to OUT/fold_K/models.
        folds: number of folds; by default those of the datalist that is given, or 5.
        datalist: by default OUT/datalist.json, which is made with this many folds.
        processes: of each training; above 1 they are started by torchrun, for which config_file must hold
            configs/multi_gpu_train.yaml.
        overrides: any keys of the config, as on the command line of a training.

    Raises:
        UserError: if the folds do not fit the datalist, OUT holds another cross-validation, or a fold fails.
    """
    if wrong := sorted(set(OWN) & set(overrides)):
        raise UserError(f"--{wrong[0]} is set for each fold by cross-validation: leave it out.")
    out = Path(output_dir)
    files = [config_file] if isinstance(config_file, str) else list(config_file)
    for path in files:
        if not Path(path).is_file():
            raise UserError(f"config_file {path} does not exist: give it relative to the bundle's folder.")
    refuse_unknown_keys({"config_file": str(files), **overrides})
    if folds is not None and folds < 2:
        raise UserError(f"folds is {folds}, expected at least 2.")
    listed = datalist or str(out / "datalist.json")
    if not datalist and not Path(listed).is_file():
        options = {"sequences": needed_sequences(files, overrides), "strict": overrides.get("strict", True)}
        make_datalist(dataset_dir, listed, folds=folds or 5, **options)
    folds = count_folds(listed, folds)
    shared = {"dataset_dir": dataset_dir, "datalist": listed, **overrides}
    same_as_before(out, {"config_file": files, **shared})
    for fold in range(folds):
        run_fold(fold, out / f"fold_{fold}", files, shared, processes)
    print_table(collect(out, folds))
    if uri := overrides.get("mlflow_uri"):
        where = {"mlflow_uri": uri, "mlflow_experiment": overrides.get("mlflow_experiment", "mtcm_kd")}
        send_cross_validation(output_dir, folds, **where)
    members = [str(out / f"fold_{fold}" / "models" / "model.pt") for fold in range(folds)]
    print(f'-> {out / "metrics.csv"}\n\nThe ensemble of the folds, for inference.yaml: --ckpt_path "{members}"')


def count_folds(datalist: str, folds: int | None) -> int:
    """The number of the datalist's folds, which must be 0, 1 and so on, and as many as asked for."""
    found = sorted({entry["fold"] for entry in read_json(datalist, "datalist").get("training", [])})
    if found != list(range(len(found))) or len(found) < 2 or folds not in (None, len(found)):
        raise UserError(f"folds is {folds}, but {datalist} has the folds {found}: give their number, at least 2.")
    return len(found)


def same_as_before(out: Path, options: dict[str, Any]) -> None:
    """Note the options in OUT, and refuse to mix folds of different ones."""
    path = out / "cross_validation.json"
    options = json.loads(json.dumps(options))
    if not path.is_file():
        write_json(path, options)
        return
    before = json.loads(path.read_text())
    if changed := sorted(key for key in {*before, *options} if before.get(key) != options.get(key)):
        raise UserError(
            f"{path} was begun with {changed[0]} {before.get(changed[0])!r}, now it is {options.get(changed[0])!r}: "
            "repeat the options to go on, or give another output_dir."
        )


def needed_sequences(files: Sequence[str], overrides: Mapping[str, Any]) -> list[str]:
    """Those that the config names for student and teachers, and T1ce, which every datalist holds."""
    config = {**ConfigParser.load_config_files(list(files)), **overrides}
    named = [config["student_sequence"], config["sequences"]]
    return list(
        dict.fromkeys(["t1ce", *(name for part in named for name in ([part] if isinstance(part, str) else part))])
    )


def run_fold(fold: int, folder: Path, files: Sequence[str], shared: Mapping[str, Any], processes: int) -> None:
    """Train and evaluate one fold in its folder, from where it stopped."""
    if (folder / "metrics.csv").is_file():
        logger.info(f"Fold {fold} is done: {folder / 'metrics.csv'}.")
        return
    models = folder / "models"
    options = {**shared, "fold": fold, "output_dir": str(folder), "ckpt_dir": str(models)}
    resume = (models / "checkpoint.pt").is_file()
    run_bundle(fold, "training", files, {**options, "resume": resume}, processes)
    run_bundle(fold, "evaluating", [*files, "configs/evaluate.yaml"], options)


def run_bundle(fold: int, run_id: str, files: Sequence[str], options: dict[str, Any], processes: int = 1) -> None:
    """One ``python -m monai.bundle run`` in a process of its own, from the bundle's folder."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"] if processes > 1 else []
    arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    line = [sys.executable, "-m", *launcher, "monai.bundle", "run", run_id, "--config_file", str(list(files))]
    logger.info(f"Fold {fold}: {run_id}.")
    with subprocess.Popen([*line, *arguments]) as process:
        try:
            code = process.wait()
        except BaseException:  # interrupted: two trainings must not write to one folder
            process.terminate()
            raise
    if code:
        raise UserError(
            f"fold {fold} ended in {run_id} with code {code}, see above: mend it, then run this command again."
        )


def collect(out: Path, folds: int) -> Scores:
    """Merge the folds' metrics.csv, calibration.csv and evaluation.json into those of OUT.

    Raises:
        UserError: if a fold is not evaluated, follows another rule, or a patient is in two folds.
    """
    parts = [read_scores(out / f"fold_{fold}") for fold in range(folds)]
    scores: dict[tuple[str, str], CaseScore] = {}
    for part in parts:
        if part.empty_rule != parts[0].empty_rule:
            raise UserError(f"{part.path} follows the rule {part.empty_rule!r} for empty regions, fold 0 another.")
        for (case, region), metrics in part.values.items():
            if (case, region) in scores:
                raise UserError(f"{case} is scored in two folds, the second {part.path}: make the datalist anew.")
            scores[case, region] = CaseScore(case, region, metrics, case in part.touched[region])
    abouts = [json.loads((part.path.parent / "evaluation.json").read_text()) for part in parts]
    cases = [case for about in abouts for case in about["cases"]]
    weights = {path: checksum for about in abouts for path, checksum in about["weights"].items()}
    command = shlex.join(["python", "-m", "scripts.cross_validate", *sys.argv[1:]])
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    merged = {"command": command, "date": date, "folds": folds, "cases": cases, "weights": weights}
    write_json(out / "evaluation.json", {**abouts[0], **merged})
    write_table(out / "calibration.csv", merge_calibration([part.path.parent / "calibration.csv" for part in parts]))
    return write_scores(out / "metrics.csv", list(scores.values()), parts[0].empty_rule)


def merge_calibration(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Bins of several runs together: voxels are added, the other columns averaged over them."""
    bins: dict[tuple[str, str], dict[str, float]] = {}
    for path in paths:
        for row in read_table(path):
            total = bins.setdefault((row["region"], row["bin"]), {"voxels": 0, "probability": 0, "frequency": 0})
            voxels = int(row["voxels"])
            total["voxels"] += voxels
            for name in ("probability", "frequency"):
                total[name] += voxels * float(row[name])
    rows = []
    for (region, index), total in bins.items():
        means = {name: f"{total[name] / max(total['voxels'], 1):.6f}" for name in ("probability", "frequency")}
        rows.append({"region": region, "bin": index, "voxels": int(total["voxels"]), **means})
    return rows


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped: run the command again to go on"))
    run_command(cross_validate)
