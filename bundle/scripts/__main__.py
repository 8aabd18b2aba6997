"""The one command: ``python -m scripts COMMAND``, to be run in the bundle's folder."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.command import choose_command
from scripts.labels import SEQUENCES
from scripts.workflow import check_keys, config_files, run_line, workflow_line

COMMANDS = {  # in the order of a project: data, training, prediction, scores, pictures
    "datalist": "scripts.data.make_datalist:make_datalist",
    "phantom": "scripts.data.phantom:make_phantoms",
    "train": "scripts.__main__:train",
    "evaluate": "scripts.__main__:evaluate",
    "predict": "scripts.__main__:predict",
    "score": "scripts.evaluation.score:score",
    "compare": "scripts.evaluation.compare:compare",
    "cross_validate": "scripts.evaluation.cross_validate:cross_validate",
    "report": "scripts.report.report:report",
    "curves": "scripts.report.curves:draw_curves",
    "overview": "scripts.report.overview:overview",
    "track": "scripts.training.tracking:send_run",
}


def train(
    dataset_dir: str, datalist: str, method: str = "", output_dir: str = "eval", processes: int = 1, **keys: str
) -> None:
    """Train a student by MTCM-KD, or by another method.

    Prints and runs MONAI's own command with configs/train.yaml.

    Args:
        dataset_dir: the folder of the patients.
        datalist: the list that ``datalist`` made of them.
        method: overlays of configs/ by name, separated by commas: student_alone, other_hospital, stored_targets,
            four_sequence_teacher, four_sequences, two_levels, paper, full_resolution, demo; or paths of your own.
        output_dir: folder of the run, which gets models/, history.csv and training.json.
        processes: number of processes that train together, one GPU each where there are GPUs.
        keys: any key of configs/train.yaml, such as --epochs 60, or --resume auto to go on with a run that was stopped.
    """
    overlays = f"{method},multi_gpu_train" if processes > 1 else method
    options = {"dataset_dir": dataset_dir, "datalist": datalist, "output_dir": output_dir, **keys}
    start("training", config_files("train", overlays), options, processes)


def evaluate(dataset_dir: str, datalist: str, method: str = "", output_dir: str = "eval", **keys: str) -> None:
    """Predict the validation patients with a trained student, and score them.

    Prints and runs MONAI's own command with configs/train.yaml and configs/evaluate.yaml.

    Args:
        dataset_dir: the folder of the patients.
        datalist: the list of the training.
        method: the training's overlays that change the student or its input. Overlays for teachers are not needed.
        output_dir: the training's folder, which gets label maps and metrics.csv.
        keys: any key of these configs, such as --fold 1 or --ckpt_path models/model.pt.
    """
    options = {"dataset_dir": dataset_dir, "datalist": datalist, "output_dir": output_dir, **keys}
    start("evaluating", config_files("train", f"{method},evaluate"), options)


def predict(dataset_dir: str, output_dir: str, method: str = "", **keys: str) -> None:
    """Write a label map for every T1ce volume of a folder.

    Prints and runs MONAI's own command with configs/inference.yaml.

    Args:
        dataset_dir: a NIfTI file, a folder of NIfTI files, BraTS folders, or DICOM studies; skull-stripped, or with
            --brain_mask.
        output_dir: folder for NAME_seg.nii.gz.
        method: overlays that change the student or its input, such as full_resolution.
        keys: any key of configs/inference.yaml, such as --ckpt_path FILE, --mirror False, --engine openvino or
            --shard 1/4, or with DICOM --series 7 and --dicom_seg True; also --t1, --t2, --flair and --label, which like
            --t1ce say by a pattern which files are which.
    """
    roles = {*SEQUENCES, "label"} - {"t1ce"}  # inference.yaml names T1ce alone
    named = {f"names::{key}" if key in roles else key: value for key, value in keys.items()}
    options = {"dataset_dir": dataset_dir, "output_dir": output_dir, **named}
    files = config_files("inference", method)
    plain = files == [f"configs/{Path(file).name}" for file in files] and not any("::" in key for key in keys)
    start("evaluating", files, options, lean=plain and "code_dir" not in keys)  # else code may need any package


def start(
    run_id: str, files: Sequence[str], options: Mapping[str, str], processes: int = 1, lean: bool = False
) -> None:
    """Check the keys of a workflow's command, run it, and end with its exit code."""
    check_keys(files, options)
    if code := run_line(workflow_line(run_id, files, options, processes), lean):
        sys.exit(code)


def find_command(target: str) -> Callable[..., Any]:
    """The function ``module:name``, which is imported when it is called.

    Its options and help are read from the source, because PyTorch and MONAI take seconds to import.
    """
    module, name = target.split(":")
    source = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")
    definition = next(
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name
    )

    def command(*arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **options)

    command.__name__ = name
    command.__doc__ = ast.get_docstring(definition)
    vars(command)["__signature__"] = signature_of(definition.args)
    return command


def signature_of(arguments: ast.arguments) -> inspect.Signature:
    """The signature of a function's source, with annotations as text. Defaults must be literals."""
    kind = inspect.Parameter
    missing: list[ast.expr | None] = [None] * (len(arguments.args) - len(arguments.defaults))
    parameters = [
        kind(
            argument.arg,
            kind.POSITIONAL_OR_KEYWORD,
            default=kind.empty if default is None else ast.literal_eval(default),
            annotation=ast.unparse(argument.annotation) if argument.annotation else kind.empty,
        )
        for argument, default in zip(arguments.args, [*missing, *arguments.defaults])
    ]
    if arguments.kwarg:
        parameters.append(kind(arguments.kwarg.arg, kind.VAR_KEYWORD))
    return inspect.Signature(parameters)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for stream in (sys.stdout, sys.stderr):  # names of old CDs hold bytes that are no UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    choose_command({name: find_command(target) for name, target in COMMANDS.items()})
