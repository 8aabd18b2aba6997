"""What MLflow shows of a run: the parameters that people compare, description, source, data set, epochs and scores."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from scripts.command import command_line_options
from scripts.files import read_json, read_table

DESCRIPTION = "mlflow.note.content"

# Parameters of a training in MLflow, with the key of the config that holds each. parameters() adds others.
COMPARED = {
    "student": "network_def::_target_",
    "student_sequence": "student_sequence",
    "student_widths": "student_widths",
    "temperature": "soft_target::temperature",
    "confidence": "confidence::total",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "roi_size": "roi_size",
    "spacing": "spacing",
    "fold": "fold",
    "seed": "seed",
}
# and of an evaluation or prediction that has no training's run
SCORED = ("student_sequence", "student_widths", "spacing", "window_size", "overlap", "mirror", "whole_volume", "fold")
# Options that say where, not what
PLACES = {
    *("config_file", "meta_file", "logging_file", "args_file", "bundle_root", "dataset_dir", "datalist", "output_dir"),
    *("ckpt_dir", "ckpt_path", "cache", "cache_dir", "code_dir", "mlflow_uri", "mlflow_experiment", "run_name"),
    *("num_workers", "overwrite", "resume", "shard", "device", "processes", "folds", "method"),
}
HIDDEN = ("train", "inference", "evaluate", "multi_gpu_train")  # configs that are no method


def parameters(stage: str, about: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of a run by name, from the record of its first stage."""
    config = about.get("configuration") or {}
    facts: dict[str, Any] = {"method": method(about)}
    if stage == "training":
        teachers = list(about.get("teachers", resolve(config, "teachers") or ()))  # older records do not name them
        facts |= {name: resolve(config, key) for name, key in COMPARED.items()}
        facts |= {
            "student": str(facts["student"]).rpartition(".")[2],
            "teachers": ", ".join("+".join(sequences(config, name)) for name in teachers),
            "teacher_widths": next((resolve(config, f"teachers::{name}::network::widths") for name in teachers), None),
            "loss_weights": loss_weights(config),
            "training_patients": len(about.get("cases") or ()),
            "validation_patients": about.get("validation_patients"),
            "amp": about.get("amp"),
            "device": device(about),
        }
    elif config:
        weights = ", ".join(
            f"{Path(path).name} {checksum[:8]}" for path, checksum in (about.get("weights") or {}).items()
        )
        facts |= {name: resolve(config, name) for name in SCORED if name in config}
        facts |= {"patients": len(about.get("cases") or ()), "weights": weights}
    texts = {name: "none" if value in (None, "", "$None") else str(value) for name, value in facts.items()}
    return texts | typed_options(about)


def typed_options(about: Mapping[str, Any]) -> dict[str, str]:
    """The options of a run's command that say what is done and are none of COMPARED."""
    line = about.get("command")
    options = command_line_options(shlex.split(line)) if line else dict(about if "config_file" in about else {})
    return {
        key.lstrip("+~").replace("#", "::"): str(value)
        for key, value in options.items()
        if key not in PLACES and key not in COMPARED.values()
    }


def method(about: Mapping[str, Any]) -> str:
    """The overlays of a run, by name, with commas; mtcm_kd where there is none."""
    files = about.get("config_file") or command_line_options(shlex.split(about.get("command") or "")).get("config_file")
    paths = files if isinstance(files, list) else [text.strip(" '\"[]") for text in (files or "").split(",")]
    names = [Path(path).stem for path in paths if path]
    return ",".join(name for name in names if name not in HIDDEN) or ("mtcm_kd" if "train" in names else "none")


def resolve(config: Mapping[str, Any], key: str) -> Any:
    """The value of ``a::b`` in a merged config, by way of references to other keys; None where there is none."""
    found: Any = config
    for part in key.split("::"):
        found = found.get(part) if isinstance(found, Mapping) else None
        if isinstance(found, str) and found[:1] in ("@", "%"):
            found = resolve(config, found[1:])
    return found


def sequences(config: Mapping[str, Any], teacher: str) -> list[str]:
    """The sequences that a teacher sees; its name where the config computes them."""
    return list(map(str, ensure_tuple(resolve(config, f"teachers::{teacher}::sequences") or teacher)))


def loss_weights(config: Mapping[str, Any]) -> str:
    """Name and weight of each loss term."""
    terms = resolve(config, "loss::terms") or {}
    return ", ".join(f"{name} {term.get('weight', 1)}" for name, term in terms.items() if isinstance(term, Mapping))


def device(about: Mapping[str, Any]) -> str:
    """What computed: the GPU's name, or cpu; with the number of processes where there are several."""
    machine = about.get("machine") or {}
    gpus = () if about.get("device") == "cpu" else machine.get("gpus") or ()  # older records do not say which
    name = next(iter(gpus), "cpu")
    return name if machine.get("processes", 1) == 1 else f"{machine['processes']} × {name}"


def source_tags(about: Mapping[str, Any]) -> dict[str, str]:
    """MLflow's own tags: who ran what, and of which commit."""
    from mlflow.tracking.context.default_context import DefaultRunContext

    words = shlex.split(about.get("typed") or "")
    end = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
    tags = {**DefaultRunContext().tags(), "mlflow.source.name": " ".join(words[:end]) or "another program"}
    if revision := about.get("revision"):
        tags["mlflow.source.git.commit"] = revision.rstrip("+")
        tags["mlflow.source.git.dirty"] = str(revision.endswith("+")).lower()
    return tags


def description(facts: Mapping[str, str], typed: Mapping[str, str], scores: Mapping[str, float]) -> str:
    """A run in words, in Markdown: what learns from what, the scores, and the commands as they were typed.

    Args:
        facts: the run's parameters.
        typed: command by stage.
        scores: as test/METRIC/REGION.
    """
    text = f"**{facts.get('method', 'none')}**"
    if "training_patients" in facts:
        taught = "taught by no teacher" if facts["teachers"] == "none" else f"taught by {facts['teachers']}"
        text += (
            f": a student of {facts['student_sequence']}, {taught}; {facts['training_patients']} patients, "
            f"{facts['epochs']} epochs."
        )
    regions = dict.fromkeys(name.split("/")[2] for name in scores)
    shown = {"Dice {:.3f}": "dice", "95th percentile of the surface distance {:.1f} mm": "hd95"}
    for region in regions:
        figures = {form: scores.get(f"test/{metric}/{region}") for form, metric in shown.items()}
        known = [form.format(figure) for form, figure in figures.items() if figure is not None]
        text += f"\n\n- {region}: {', '.join(known)}"
    return text + "".join(f"\n\n`{line}`" for line in typed.values() if line)


def dataset_of(stage: str, about: Mapping[str, Any]) -> Any:
    """The run's datalist as MLflow's DatasetInput, for one stage; None where there is no datalist."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = about.get("data")
    if not data:
        return None
    folder = (about.get("configuration") or {}).get("dataset_dir") or str(Path(data["datalist"]).parent)
    profile = json.dumps({"datalist": Path(data["datalist"]).name, "sha256": data["sha256"]})
    source = json.dumps({"uri": str(Path(folder).resolve())})
    dataset = Dataset(Path(folder).resolve().name, data["sha256"][:8], "local", source, profile=profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", stage)])


def epochs_after(path: Path, epoch: int) -> list[tuple[int, dict[str, float]]]:
    """(epoch, values by name) of the rows of history.csv after an epoch."""
    rows = [{name: float(value) for name, value in row.items() if value} for row in read_table(path)]
    return [(int(row["epoch"]), row) for row in rows if row["epoch"] > epoch]


def evaluation_scores(path: Path) -> dict[str, float]:
    """Means over the patients of an evaluation, as test/METRIC/REGION."""
    if not path.is_file():
        return {}
    summary = read_json(path, "run", {"summary": dict})["summary"]
    means = {f"test/{name}/{region}": row["mean"] for region, rows in summary.items() for name, row in rows.items()}
    return {name: mean for name, mean in means.items() if mean is not None and math.isfinite(mean)}
