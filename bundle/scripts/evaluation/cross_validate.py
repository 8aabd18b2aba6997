"""Train and evaluate every fold, one after another, and score all patients out of fold in one table.

A patient is scored out of fold by the student of the fold that did not train on them.

The same command continues where it stopped: finished folds are kept, an unfinished one resumes from its checkpoint.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser
from monai.utils import ensure_tuple

from scripts.data.make_datalist import make_datalist
from scripts.errors import UserError
from scripts.evaluation.calibration_table import merge_calibration
from scripts.evaluation.compare import pooled
from scripts.evaluation.score import cleared_path
from scripts.evaluation.summary import OPTIONAL, CaseScore, Scores, print_table, read_scores, write_scores
from scripts.files import read_json, write_json, write_table
from scripts.locking import FolderLock
from scripts.training.tracking import send_cross_validation
from scripts.workflow import STOPPED, check_keys, config_files, run_line, workflow_line

logger = logging.getLogger(__name__)

OWN = ("fold", "ckpt_dir", "ckpt_path", "resume")  # keys that are set for each fold
EVALUATE = "configs/evaluate.yaml"
TOGETHER = "multi_gpu_train.yaml"  # for processes that train together: a single one evaluates


def cross_validate(
    dataset_dir: str,
    output_dir: str,
    method: str = "",
    folds: int | None = None,
    datalist: str = "",
    processes: int = 1,
    config_file: str | Sequence[str] = "",
    **overrides: Any,
) -> None:
    """Train and evaluate every fold, and score each patient by the fold that did not train on them.

    Args:
        dataset_dir: the folder of the patients.
        output_dir: OUT, which gets metrics.csv; each fold's run goes to OUT/fold_K, its checkpoints to
            OUT/fold_K/models.
        method: overlays by name or path, separated by commas, as in ``train``.
        folds: number of folds; by default as many as the given datalist has, or 5.
        datalist: by default OUT/datalist.json, which is made with this many folds.
        processes: number of processes that train together. A single one evaluates.
        config_file: in the place of ``method``: all config files of the training, train.yaml first.
        overrides: any key of these configs or of evaluate.yaml.

    Raises:
        UserError: if the folds do not fit the datalist, OUT holds another cross-validation, a fold fails, or both
            ``method`` and ``config_file`` are given.
    """
    if method and config_file:
        raise UserError(
            f"method is {method!r}, but config_file names all config files of the training: give one of the two."
        )
    overlays = f"{method},multi_gpu_train" if processes > 1 else method
    files = list(ensure_tuple(config_file)) if config_file else config_files("train", overlays)
    out = Path(output_dir)
    check_options(files, folds, overrides)
    listed = datalist or str(out / "datalist.json")
    if not datalist and not Path(listed).is_file():
        make_datalist(dataset_dir, listed, folds=folds or 5, **datalist_options(files, overrides))
    elif not datalist:
        logger.info(f"{listed} of an earlier start is used. To list {dataset_dir} again, give another output_dir.")
    folds = count_folds(listed, folds)
    shared = {"dataset_dir": dataset_dir, "datalist": listed, **overrides}
    lock = FolderLock(output_dir)
    check_same_options(out, {"config_file": files, **shared})
    for fold in range(folds):
        run_fold(fold, out / f"fold_{fold}", files, shared, processes)
    print_table(collect(out, folds))
    if uri := overrides.get("mlflow_uri"):
        where = {"mlflow_uri": uri, "mlflow_experiment": overrides.get("mlflow_experiment", "mtcm_kd")}
        send_cross_validation(output_dir, folds, **where)
    del lock
    members = [str(out / f"fold_{fold}" / "models" / "model.pt") for fold in range(folds)]
    print(f'-> {out / "metrics.csv"}\n\nThe ensemble of the folds, for inference.yaml: --ckpt_path "{members}"')


def check_options(files: Sequence[str], folds: int | None, overrides: Mapping[str, Any]) -> None:
    """Raises UserError for a key that is set for each fold, a config that cannot be read, or fewer than 2 folds."""
    if wrong := sorted(set(OWN) & set(overrides)):
        raise UserError(f"--{wrong[0]} is set for each fold by cross-validation: leave it out.")
    check_keys([*files, EVALUATE], overrides)
    evaluation = evaluation_files(files)
    check_keys(evaluation, options_for(evaluation, files, overrides))
    if folds is not None and folds < 2:
        raise UserError(f"folds is {folds}, expected at least 2.")


def datalist_options(files: Sequence[str], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What a datalist for this config must hold: T1ce and the student's sequences; and its ``strict``."""
    parser = ConfigParser()
    parser.read_config(list(files))
    parser.update({key: parsed(value) for key, value in overrides.items()})
    parser.resolve_macro_and_relative_ids()
    student = ensure_tuple(parser.get_parsed_content("student_sequence"))
    return {"sequences": list(dict.fromkeys(["t1ce", *student])), "strict": parser.get_parsed_content("strict")}


def count_folds(datalist: str, folds: int | None) -> int:
    """The number of folds of the labelled patients in a datalist.

    Raises:
        UserError: if they are not numbered 0, 1 and so on, are fewer than 2, or not as many as asked for.
    """
    document = read_json(datalist, "datalist", {"training": [{"fold?": int}]})
    found = sorted({entry["fold"] for entry in document["training"] if "fold" in entry})
    if found != list(range(len(found))) or len(found) < 2 or folds not in (None, len(found)):
        raise UserError(f"folds is {folds}, but {datalist} has the folds {found}: give their number, at least 2.")
    return len(found)


def check_same_options(out: Path, options: dict[str, Any]) -> None:
    """Write the options to OUT/cross_validation.json; all folds in OUT must have the same ones.

    Raises:
        UserError: if a fold in OUT has other options.
    """
    path = out / "cross_validation.json"
    options = json.loads(json.dumps(options))
    if not path.is_file() or not any(out.glob("fold_*")):
        write_json(path, options)
        return
    before = read_json(path, "output_dir")
    values = [{key: parsed(value) for key, value in one.items()} for one in (before, options)]
    if changed := sorted(key for key in {*before, *options} if values[0].get(key) != values[1].get(key)):
        raise UserError(
            f"{path} has {changed[0]} {before.get(changed[0])!r}, now it is {options.get(changed[0])!r}: "
            "repeat the options to continue, or give another output_dir."
        )


def parsed(value: Any) -> Any:
    """The value of an option's text: 1e-3 is 0.001."""
    return DefaultParseValue(value) if isinstance(value, str) else value


def run_fold(fold: int, folder: Path, files: Sequence[str], shared: Mapping[str, Any], processes: int) -> None:
    """Train and evaluate one fold in its folder, or continue where it stopped."""
    if (folder / "metrics.csv").is_file():
        logger.info(f"Fold {fold} is done: {folder / 'metrics.csv'}.")
        return
    options = {**shared, "fold": fold, "output_dir": str(folder), "ckpt_dir": str(folder / "models")}
    evaluation = evaluation_files(files)
    run_bundle(fold, "training", files, options_for(files, evaluation, options) | {"resume": "auto"}, processes)
    run_bundle(fold, "evaluating", evaluation, options_for(evaluation, files, options))


def evaluation_files(files: Sequence[str]) -> list[str]:
    """Config files of a fold's evaluation, from those of its training."""
    return [*(path for path in files if Path(path).name != TOGETHER), EVALUATE]


def options_for(files: Sequence[str], others: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those whose key is in the other config files alone."""
    own, theirs = (set().union(*map(ConfigParser.load_config_file, paths)) for paths in (files, others))
    return {key: value for key, value in options.items() if key.split("::")[0] not in theirs - own}


def run_bundle(fold: int, run_id: str, files: Sequence[str], options: dict[str, Any], processes: int = 1) -> None:
    """Run ``python -m monai.bundle run`` in a process of its own. Raises UserError if it fails."""
    logger.info(f"Fold {fold}: {run_id}.")
    code = run_line(workflow_line(run_id, files, options, processes))
    if code in STOPPED:
        sys.exit(code)
    if code:
        raise UserError(f"fold {fold} ended in {run_id} with code {code}, see above: fix it and run this again.")


def collect(out: Path, folds: int) -> Scores:
    """Merge scores, calibration.csv and evaluation.json of all folds into OUT; the scores of all patients.

    Raises:
        UserError: if a fold is not evaluated, follows another rule, or a patient is in two folds.
    """
    parts = [out / f"fold_{fold}" for fold in range(folds)]
    form = {"cases": list, "weights": dict}
    abouts = [read_json(part / "evaluation.json", "fold", form) for part in parts]
    cases = [case for about in abouts for case in about["cases"]]
    weights = {path: checksum for about in abouts for path, checksum in about["weights"].items()}
    command = shlex.join(["python", "-m", "scripts", *sys.argv[1:]])
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    merged = {"command": command, "date": date, "folds": folds, "cases": cases, "weights": weights}
    write_json(out / "evaluation.json", {**abouts[0], **merged})
    write_table(out / "calibration.csv", merge_calibration([part / "calibration.csv" for part in parts]))
    cleared = cleared_path("metrics.csv").name
    if all((part / cleared).is_file() for part in parts):
        merge_scores(out, cleared, parts)
    return merge_scores(out, "metrics.csv", parts)


def merge_scores(out: Path, name: str, parts: Sequence[Path]) -> Scores:
    """Write OUT/NAME with the scores of the files of this name in all folds."""
    both = pooled([read_scores(part / name) for part in parts])
    scores = [CaseScore(*key, metrics, key[0] in both.empty_cases[key[1]]) for key, metrics in both.values.items()]
    about = {name: getattr(both, name) for name in OPTIONAL}
    return write_scores(out / name, scores, both.empty_rule, **about)
