"""Every example of docs/extend.md, copied out of the page and trained for an epoch."""

import csv
import re
import shutil
import sys
import textwrap

import nibabel as nib
import numpy as np
import pytest
import yaml
from monai.bundle import run as bundle_run

from conftest import BUNDLE, ROOT, TINY, TINY_TEACHERS
from scripts.command import command_line_options

PAGE = (BUNDLE / "docs" / "extend.md").read_text()


def examples(heading, language):
    """The code blocks of a section."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading + "\n")]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def train(folder, data_options, overlay):
    """One epoch with an overlay on train.yaml; the last row of its history."""
    (folder / "overlay.yaml").write_text(overlay)
    options = [*TINY, *TINY_TEACHERS, *data_options, "--epochs", "1", "--distillation_warm_up", "0"]
    settings = {key: yaml.safe_load(value) for key, value in command_line_options(options).items()}
    files = [str(BUNDLE / "configs" / "train.yaml"), str(folder / "overlay.yaml")]
    bundle_run("training", config_file=files, output_dir=str(folder / "out"), logging_file=False, **settings)
    with open(folder / "out" / "history.csv", newline="") as file:
        return list(csv.DictReader(file))[-1]


def test_the_augmentation_of_train_md(tmp_path, data_options):
    text = (BUNDLE / "docs" / "train.md").read_text()
    (block,) = re.findall(r"^    augmentation:\n(?:    .*\n)+", text, re.MULTILINE)
    assert float(train(tmp_path, data_options, textwrap.dedent(block))["loss/student"]) > 0


def test_own_loss_term(tmp_path, data_options, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("my_losses", None)
    (tmp_path / "my_losses.py").write_text(examples("Own loss term", "python")[0])
    overlay = examples("Own loss term", "yaml")[0].replace("../my_code", str(tmp_path))
    row = train(tmp_path, data_options, overlay)
    assert 0 < float(row["loss/focal"]) < float(row["loss/total"])


def test_the_loss_term_of_the_readme(tmp_path, data_options, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    readme = (ROOT / "README.md").read_text()
    (code,), (overlay,) = (
        re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL) for language in ("python", "yaml")
    )
    sys.modules.pop("my_losses", None)
    (tmp_path / "my_losses.py").write_text(code)
    row = train(tmp_path, data_options, overlay.replace("../my_code", str(tmp_path)))
    assert 0.05 < float(row["loss/mine"]) <= 0.2  # 0.2 times a probability of at least 1/4


@pytest.mark.parametrize(
    "overlay",
    ["loss::terms::distil_fusion_1: null", "segmentation: {_target_: DiceCELoss, to_onehot_y: true, softmax: true}"],
)
def test_terms_are_taken_away_and_replaced_as_the_table_says(overlay, tmp_path, data_options):
    assert overlay in PAGE
    row = train(tmp_path, data_options, overlay)
    assert ("loss/distil_fusion_1" in row) == ("null" not in overlay)


@pytest.mark.parametrize("heading, column", [("Own network", "loss/student"), ("Own teacher", "loss/distil_both")])
def test_own_network_and_teacher(heading, column, tmp_path, data_options):
    assert float(train(tmp_path, data_options, examples(heading, "yaml")[0])[column]) > 0


def test_a_teacher_gets_another_network_as_the_table_says(tmp_path, data_options):
    (row,) = re.findall(r"^\| give one another network \|(.*?);", PAGE, re.MULTILINE)
    assert float(train(tmp_path, data_options, "\n".join(re.findall(r"`(.*?)`", row)))["loss/distil_t1"]) > 0


def test_own_sequence(tmp_path, cohort, command):
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("__pycache__", "eval", "models", "docs"))
    labels = bundle / "scripts" / "labels.py"
    sequences, ending = examples("Own sequence", "python")[0].splitlines()[0], '    "adc": "adc",'
    assert ending in PAGE
    text = re.sub(r"^SEQUENCES = .*$", sequences, labels.read_text(), flags=re.MULTILINE)
    labels.write_text(text.replace("ENDINGS = {", "ENDINGS = {\n" + ending))
    for path in (cohort / "data").glob("*/*_flair.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), str(path).replace("_flair", "_adc"))
    listed = [
        "scripts",
        "datalist",
        "--dataset_dir",
        cohort / "data",
        "--output",
        tmp_path / "list.json",
        "--folds",
        "3",
    ]
    assert command(*listed, cwd=bundle).returncode == 0
    (tmp_path / "adc.yaml").write_text(examples("Own sequence", "yaml")[0])
    result = command(
        "scripts", "train", "--method", tmp_path / "adc.yaml", "--dataset_dir", cohort / "data",
        "--datalist", tmp_path / "list.json", "--output_dir", tmp_path / "out", *TINY, *TINY_TEACHERS,
        "--epochs", "1", "--distillation_warm_up", "0", cwd=bundle,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    with open(tmp_path / "out" / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["loss/distil_adc"]) > 0
