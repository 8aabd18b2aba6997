"""Trained networks of other programs as frozen teachers: their predictions of all patients, made once, as files.

A network that was trained elsewhere wants its own preprocessing of whole volumes, so it is run by its own program, and
the student learns from the files: ``targets`` of stored_targets.yaml. Both kinds are named in YAML:

    targets: {_target_: scripts.inference.foreign_teachers.nnunet, model_folder: DIR, ...}
    targets: {_target_: scripts.inference.foreign_teachers.zoo_bundle, bundle_dir: DIR, ...}
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Invertd
from monai.utils import ensure_tuple

from scripts.errors import UserError, kind_and_reason
from scripts.files import read_json, sha256
from scripts.folders.task_folders import class_named, nnunet_values
from scripts.inference.stored_predictions import Predict, predict_all
from scripts.labels import CLASSES, REGION_NAMES, REGIONS, SEQUENCE_NAMES, sequence_named
from scripts.method.weights import load_weights
from scripts.variants.regions import regions_to_classes

logger = logging.getLogger(__name__)

Folds = int | str | Sequence[int | str]


def nnunet(
    model_folder: str, datalist: str, dataset_dir: str, output_dir: str, folds: Folds | None = None,
    checkpoint: str = "checkpoint_final.pth", mirror: bool = True, device: str | None = None,
) -> str:  # fmt: skip
    """Class probabilities of all patients by a trained nnU-Net v2; the folder in which they are.

    nnU-Net's own library loads the model, prepares the volumes and brings its prediction back to their grid.

    Args:
        model_folder: what nnUNetv2_train made: dataset.json, plans.json, fold_0 and so on. Its checkpoints are pickles,
            which run code when they are loaded: take those that you trust.
        datalist: the patients. Those who lack a channel of the model are left out.
        dataset_dir: the folder that its paths are relative to.
        output_dir: where NAME_probabilities.nii.gz are written; those that are there are kept.
        folds: of the cross-validation, or "all" for fold_all; None takes the whole cross-validation, or else fold_all.
        checkpoint: file of each fold.
        mirror: average over flips, as nnU-Net does.
        device: that predicts; None takes the GPU where there is one.

    Raises:
        UserError: if nnU-Net is not installed or fails, or the folder holds no such model, or one of other labels or
            channels.
    """
    folder, where = Path(model_folder), Path(model_folder, "dataset.json")
    document = read_json(where, "model_folder", {"channel_names": dict, "labels": dict})
    channels, values = sequences_of_names(document["channel_names"], where), nnunet_values(document["labels"], where)
    trained = trained_folds(folder, folds, checkpoint)

    def load() -> Predict:
        place = torch.device(device or idist.device())
        try:
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

            predictor = nnUNetPredictor(
                use_mirroring=mirror, device=place, perform_everything_on_device=place.type == "cuda", allow_tqdm=False
            )
            predictor.initialize_from_trained_model_folder(str(folder), [*trained], checkpoint)
        except Exception as error:  # a missing file, another version: the user needs the folder, not the way
            if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("nnunetv2"):
                raise UserError("nnU-Net is not installed: pip install nnunetv2.") from error
            raise UserError(
                f"model_folder {folder} cannot be loaded ({kind_and_reason(error)}): give the folder that "
                "nnUNetv2_train made. If a library is named, install one that fits (pip check), such as the "
                "torchvision of this torch."
            ) from error
        manager, reader = predictor.label_manager, predictor.plans_manager.image_reader_writer_class()
        heads = [member_classes(head, values) for head in manager.all_regions or manager.all_labels]

        def predict(files: list[str]) -> np.ndarray:
            image, properties = reader.read_images(files)
            _, found = predictor.predict_single_npy_array(image, properties, None, None, True)
            return heads_to_classes(in_image_grid(np.asarray(found), reader, properties), heads)

        return predict

    made_by = [sha256(path) for path in (*trained.values(), where, folder / "plans.json") if path.is_file()]
    made_by += [f"folds {', '.join(trained)}, mirror {mirror}"]
    return predict_all(load, channels, datalist, dataset_dir, output_dir, made_by, f"model_folder {folder}")


def trained_folds(folder: Path, folds: Folds | None, checkpoint: str) -> dict[str, Path]:
    """The checkpoint of each fold that is asked for. Raises UserError for one that is not there."""
    paths = {path.parent.name.removeprefix("fold_"): path for path in sorted(folder.glob(f"fold_*/{checkpoint}"))}
    wanted = sorted({*paths} - {"all"}) or ["all"] if folds is None else [str(fold) for fold in ensure_tuple(folds)]
    if absent := [fold for fold in wanted if fold not in paths]:
        raise UserError(
            f"model_folder {folder} holds no fold_{absent[0]}/{checkpoint}: give the folder that nnUNetv2_train made, "
            f"and folds that are there ({', '.join(paths) or 'none is'})."
        )
    return {fold: paths[fold] for fold in wanted}


def in_image_grid(probabilities: np.ndarray, reader: Any, properties: Mapping[str, Any]) -> np.ndarray:
    """Probabilities (C, ...) in the axes of the image's file, (C, H, W, D), by nnU-Net's own writer; 8 bit."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "head.nii.gz")
        volumes = []
        for head in probabilities:
            reader.write_seg(np.rint(head * 255).astype(np.uint8), str(path), properties)
            volumes.append(np.asarray(nib.load(path).dataobj, dtype=np.float32) / 255)
    return np.stack(volumes)


def member_classes(head: int | Sequence[int], values: Sequence[int]) -> tuple[int, ...]:
    """The network classes of a head of nnU-Net: of a label value, or of a region of several."""
    members: Sequence[int] = head if isinstance(head, (tuple, list)) else [head]  # type: ignore[list-item]
    return tuple(sorted(values.index(int(value)) for value in members))


def heads_to_classes(probabilities: np.ndarray, heads: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Class probabilities from those of heads, each of one class (softmax) or of one region (sigmoid).

    Shapes: (heads, H, W, D) -> (4, H, W, D).

    Raises:
        UserError: if the heads are neither the four classes nor the three regions.
    """
    of = {classes: index for index, classes in enumerate(heads)}
    if set(of) == {(index,) for index in range(len(CLASSES))}:
        return probabilities[[of[(index,)] for index in range(len(CLASSES))]]
    if set(of) == {classes for _, classes in REGIONS}:
        regions = torch.as_tensor(probabilities[[of[classes] for _, classes in REGIONS]])
        return regions_to_classes(regions).numpy()
    raise UserError(f"the teacher's outputs are of the classes {list(of)}, expected all four, or TC, WT and ET.")


def zoo_bundle(bundle_dir: str, datalist: str, dataset_dir: str, output_dir: str, device: str | None = None) -> str:
    """Class probabilities of all patients by a Model Zoo bundle such as brats_mri_segmentation; their folder.

    Its inference config gives network, preprocessing and inferer, its metadata the channels of input and output: three
    regions, each by a sigmoid. A bundle's config is code: take those that you trust.

    Args:
        bundle_dir: the bundle, with configs/inference.json, configs/metadata.json and models/model.pt.
        datalist, dataset_dir, output_dir, device: as for ``nnunet``.

    Raises:
        UserError: if the folder holds no such bundle, or one of other channels, or its network fails.
    """
    folder, place = Path(bundle_dir).resolve(), torch.device(device or idist.device())
    formats = read_json(folder / "configs" / "metadata.json", "bundle_dir", {"network_data_format": dict})
    try:
        formats = formats["network_data_format"]
        inputs, outputs = formats["inputs"]["image"]["channel_def"], formats["outputs"]["pred"]["channel_def"]
        parser = ConfigParser()
        parser.read_config(str(folder / "configs" / "inference.json"))
        parser.update({"bundle_root": str(folder), "device": place})
        network = parser.get_parsed_content("network_def").to(place).eval()
        preprocessing, inferer = (parser.get_parsed_content(key) for key in ("preprocessing", "inferer"))
    except Exception as error:  # of any class that it names
        raise UserError(
            f"bundle_dir {folder} holds no bundle: configs/inference.json needs network_def, preprocessing and "
            f"inferer, and configs/metadata.json channels ({kind_and_reason(error)})."
        ) from error
    weights = folder / "models" / "model.pt"
    load_weights(network, str(weights))
    where = folder / "configs" / "metadata.json"
    regions = regions_of_names(outputs, where)

    @torch.no_grad()
    def predict(files: list[str]) -> np.ndarray:
        data = preprocessing({"image": files})
        logits = inferer(data["image"][None].to(place), network)
        if len(logits[0]) != len(outputs):
            raise ValueError(f"the network gives {len(logits[0])} channels, its metadata names {len(outputs)}")
        data["pred"] = MetaTensor(logits[0].cpu().sigmoid(), meta=data["image"].meta)
        back = Invertd("pred", preprocessing, "image", nearest_interp=False, to_tensor=True)(data)["pred"]
        return regions_to_classes(torch.as_tensor(back).as_subclass(torch.Tensor)[regions]).numpy()

    channels = sequences_of_names(inputs, where)
    made_by = [sha256(path) for path in (weights, where, folder / "configs" / "inference.json")]
    return predict_all(lambda: predict, channels, datalist, dataset_dir, output_dir, made_by, f"bundle_dir {folder}")


def sequences_of_names(names: Mapping[str, str], where: Path) -> list[str]:
    """The sequence of each input channel. Raises UserError for a name that is none."""
    found = [sequence_named(names[key]) for key in sorted(names, key=int)]
    if None in found or len(set(found)) < len(found):
        raise UserError(f"{where}: channels are {dict(names)}, expected {', '.join(SEQUENCE_NAMES.values())}.")
    return [str(name) for name in found]


def regions_of_names(names: Mapping[str, str], where: Path) -> list[int]:
    """The output channel of TC, WT and ET. Raises UserError if the names do not say it."""
    found = [[int(key) for key, name in names.items() if class_named(str(name)) == region] for region in REGION_NAMES]
    if any(len(keys) != 1 for keys in found):
        raise UserError(f"{where}: outputs are {dict(names)}, expected tumor core, whole tumor and enhancing tumor.")
    return [keys[0] for keys in found]
