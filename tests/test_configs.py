"""Every documented list of config files resolves, and what must agree does."""

import json
import re

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.properties import InferProperties, TrainProperties

from conftest import BUNDLE, TINY
from scripts import environment
from scripts.command import command_line_options
from scripts.method.weights import load_weights

CONFIGS = BUNDLE / "configs"
LISTS = {
    "method": ["train"],
    "student alone": ["train", "student_alone"],
    "two levels": ["train", "two_levels"],
    "four-sequence teacher": ["train", "four_sequence_teacher"],
    "four sequences": ["train", "student_alone", "four_sequences"],
    "paper": ["train", "paper"],
    "full": ["train", "full_resolution"],
    "demo": ["train", "demo"],
    "demo alone": ["train", "demo", "student_alone"],
    "demo of the paper": ["train", "paper", "demo"],
    "several processes": ["train", "multi_gpu_train"],
    "evaluate": ["train", "evaluate"],
    "evaluate full": ["train", "full_resolution", "evaluate"],
    "evaluate paper": ["train", "paper", "evaluate"],
}


def load(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def parser_of(names, options, **overrides):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.yaml") for name in names])
    settings = {key: yaml.safe_load(value) for key, value in command_line_options(options).items()}
    parser.update({**settings, "bundle_root": str(BUNDLE), **overrides})
    return parser


@pytest.mark.parametrize("names", LISTS.values(), ids=LISTS)
def test_documented_lists_of_files_give_an_engine(names, data_options, tmp_path):
    parser = parser_of(names, [*TINY, *data_options], output_dir=str(tmp_path), ckpt_dir=str(tmp_path))
    if names[-1] == "evaluate":
        assert parser.get_parsed_content("validate::evaluator").state.epoch_length == 2
    else:
        trainer = parser.get_parsed_content("train::trainer")
        assert trainer.state.epoch_length == (4 if "paper" in names else 2)
        teachers = {"four_sequence_teacher": {"all"}, "student_alone": set()}
        wanted = next((teachers[name] for name in names if name in teachers), {"flair", "t2", "t1"})
        assert set(trainer.network.teachers) == wanted


def test_confidence_is_on_the_device_also_where_the_loss_does_without_it(data_options):
    parser = parser_of(["train"], [*TINY, *data_options], device="meta", **{"loss::terms::distil": None})
    handlers = parser.get_parsed_content("train::handlers")
    (handler,) = (handler for handler in handlers if type(handler).__name__ == "ConfidenceUpdate")
    assert handler.confidence.weights.device.type == "meta"


@pytest.mark.parametrize(
    "overlay, shape",
    [("four_sequences", (4,)), ("paper_inference", (1, 128, 128, 128)), ("full_resolution", (1,))],
)
def test_overlays_of_prediction_take_a_patient(overlay, shape, data_options):
    parser = parser_of(["inference", overlay], data_options[:2])
    entry = parser.get_parsed_content("dataset")[0]
    assert "fault" not in entry and tuple(entry["image"].shape[: len(shape)]) == shape
    assert parser.get_parsed_content("network_def").stem.conv1.in_channels == shape[0]


def test_patients_are_resampled_to_the_voxel_size_that_is_asked_for(data_options):
    parser = parser_of(["train"], [*TINY, *data_options], spacing=[6, 6, 6])
    case = parser.get_parsed_content("cases")["training"][0]
    assert parser.get_parsed_content("train::preprocessing")(case)["image"].pixdim.tolist() == pytest.approx([6, 6, 6])


def test_the_papers_student_is_predicted_as_it_was_trained():
    training, prediction = load("paper"), load("paper_inference")
    parts = {"student_widths", "spacing", "roi_size", "window_size", "preprocessing"}  # xavier is for random weights
    assert prediction == {key: training[key] for key in parts}
    assert parts == set(training) & {*load("inference"), *re.findall(r"@(\w+)", str(prediction))}


def test_inference_gives_an_engine_without_teachers_fusion_loss_or_label(data_options):
    text = (CONFIGS / "inference.yaml").read_text()
    code = "\n".join(line.split("#")[0] for line in text.splitlines())
    assert not re.search("teacher|fusion|loss|flair|t2|confidence|'label'|: label\\b", code)
    evaluator = parser_of(["inference"], [*data_options[:2]]).get_parsed_content("evaluator")
    assert evaluator.state.epoch_length == 6


KEYS = [
    "network_def", "preprocessing", "student_widths", "deep_supervision", "window_size", "overlap", "spacing",
    "whole_volume", "student_sequence",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_training_and_inference_say_the_same(key):
    assert load("train")[key] == load("inference")[key]


@pytest.mark.parametrize("key", ["mirror", "smallest_part_ml"])
def test_evaluation_and_inference_say_the_same(key):
    assert load("evaluate")[key] == load("inference")[key]


def test_evaluation_writes_label_maps_as_inference_does():
    evaluated, predicted = (load(name)["label_map"]["transforms"] for name in ("evaluate", "inference"))
    own = ("SaveProbabilitiesd", "SaveDicomSegd")  # of inference alone
    assert evaluated == [step for step in predicted if not step["_target_"].endswith(own)]


def test_a_pretrained_teacher_sees_its_sequences_in_the_order_of_its_training():
    assert load("four_sequences")["student_sequence"] == load("four_sequence_teacher")["teachers"]["all"]["sequences"]


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS.glob("*.yaml")])
def test_every_key_is_read(name):
    """A top-level key that nothing refers to, no tool knows, and no other file has, is a mistake."""
    known = {"imports", "initialize", "finalize", "run", "training", "evaluating", "bundle_root"}
    files = {path.stem: re.sub(r"#.*", "", path.read_text()) for path in CONFIGS.glob("*.yaml")}
    if name in ("train", "inference"):  # which must read their own keys
        files = {name: files[name]}
    for key in load(name):
        root = key.removeprefix("+").split("::")[0]
        if root in known:
            continue
        readers = [text for stem, text in files.items() if re.search(rf"[@%]{root}\b", text)]
        assert readers, f"{name}.yaml: nothing reads {key}"
        if name not in ("train", "inference", "evaluate", "multi_gpu_train"):
            own = re.search(rf"@{root}\b", files[name])
            assert own or root in load("train"), f"{name}.yaml: {key} is not in train.yaml"


def test_the_student_at_full_resolution_is_the_papers_network():
    network = parser_of(["inference", "full_resolution"], []).get_parsed_content("network_def")
    assert sum(p.numel() for p in network.parameters()) == 9_458_702 + 260  # the published one less a quarter head
    shape = json.loads((CONFIGS / "metadata.json").read_text())["network_data_format"]["inputs"]["image"][
        "spatial_shape"
    ]
    assert shape == ["8*n"] * 3
    assert network.eval()(torch.zeros(1, 1, 8, 8, 16)).shape == (1, 4, 8, 8, 16)


def test_the_shipped_weights_are_small_and_fit_the_network_of_inference():
    path = BUNDLE / "models" / "model.pt"
    assert path.stat().st_size <= 25 * 2**20
    network = parser_of(["inference"], []).get_parsed_content("network_def")
    load_weights(network, str(path))
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_one_override_makes_a_student_of_another_sequence(data_options, tmp_path):
    options = [*TINY, *data_options, "--student_sequence", "t1"]
    parser = parser_of(["train"], options, output_dir=str(tmp_path))
    assert parser.get_parsed_content("train::dataset").data[0]["image"].endswith("_t1.nii.gz")


def test_eight_processes_that_train_together_share_the_cores_for_loading(monkeypatch):
    monkeypatch.setattr(environment, "cores", lambda: 64)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert parser_of(["train"], []).get_parsed_content("num_workers") == 6


def test_teachers_are_swapped_in_the_config_alone(data_options, tmp_path):
    """A teacher that sees all four sequences, one that is MONAI's SegResNetDS, and no T1 teacher."""
    overrides = {
        "teachers": {
            "all": {
                "_target_": "scripts.method.teachers.Teacher",
                "sequences": ["flair", "t1", "t1ce", "t2"],
                "network": {"_target_": "scripts.method.resunet.ResUNet", "in_channels": 4, "widths": [4, 4, 8, 8]},
                "feature_layers": ["decoder2"],
            },
            "flair": {
                "_target_": "scripts.method.teachers.Teacher",
                "sequences": ["flair"],
                "network": {
                    "_target_": "SegResNetDS", "in_channels": 1, "out_channels": 4, "init_filters": 8,
                    "blocks_down": [1, 1], "dsdepth": 1,
                },
            },
        },
        "fusion::in_channels": {"all": [4]},
    }  # fmt: skip
    folders = {"output_dir": str(tmp_path), "ckpt_dir": str(tmp_path)}
    parser = parser_of(["train"], [*TINY, *data_options], **folders, **overrides)
    trainer = parser.get_parsed_content("train::trainer")
    parser.get_parsed_content("loss").distilling = True
    batch = next(iter(trainer.data_loader))
    output = trainer._iteration(trainer, batch)
    assert set(output["pred"].teachers) == {"all", "flair"}
    assert torch.isfinite(output["loss"])


@pytest.mark.parametrize("name, properties", [("train", TrainProperties), ("inference", InferProperties)])
def test_the_workflows_have_monais_required_properties(name, properties):
    parser = parser_of([name], [])
    assert [item["id"] for item in properties.values() if item["required"] and item["id"] not in parser] == []


@pytest.mark.parametrize("name, kind", [("train", "train"), ("inference", "inference")])
def test_what_monai_reads_by_name_is_what_the_engines_use(name, kind):
    """MONAI's own check: a property such as postprocessing must be what its engine refers to."""
    workflow = ConfigWorkflow(str(CONFIGS / f"{name}.yaml"), workflow_type=kind, logging_file=False)
    optional = {key: item for key, item in workflow.properties.items() if not item["required"]}
    assert [key for key, item in optional.items() if not workflow._check_optional_id(name=key, property=item)] == []


def test_a_server_gets_the_postprocessing_without_patients(tmp_path, monkeypatch):
    """MONAI Label parses it alone, in any folder."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.yaml")
    monkeypatch.chdir(tmp_path)
    parser["bundle_root"] = str(BUNDLE)
    names = [type(step).__name__ for step in parser.get_parsed_content("postprocessing").transforms]
    assert names == ["Activationsd", "ClassesInImageGridd", "ClearSmallPartsd", "MapLabelValued", "SaveImaged"]
