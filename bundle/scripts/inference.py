"""Prediction of many patients, where one that fails does not stop the others."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import Dataset, MetaTensor
from monai.engines import EnsembleEvaluator
from monai.transforms import Compose

from scripts.cases import find_images
from scripts.checks import Fault, Volume, check_shape, check_voxels, settle
from scripts.distillation import load_weights
from scripts.errors import UserError
from scripts.exported import is_exported, load_exported
from scripts.labels import SEQUENCES
from scripts.loading import datalist_images
from scripts.output import label_map, maps_of
from scripts.precision import lay_channels_last
from scripts.provenance import forget_scores, record_run, sha256

__all__ = ["CheckedImages", "Predictor", "find_work", "load_members", "make_members", "record_inference"]

logger = logging.getLogger(__name__)

LITTLE_BACKGROUND = 0.98  # share of voxels that are not 0, above which a volume is hardly skull-stripped


def find_work(
    dataset_dir: str, sequence: str = "t1ce", datalist: str = "", output_dir: str = "", overwrite: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Images to predict, as ``{"image": path, "case": name}``.

    Args:
        dataset_dir: one file, a folder of them, or the folder that the datalist's paths are relative to.
        sequence: which files of a BraTS folder, or of the datalist, to take.
        datalist: a file as written by scripts.datalist; all its cases are taken.
        output_dir: where label maps (NAME_seg.nii.gz) are.
        overwrite: predict again what has been predicted.

    Returns:
        ``all``, and ``left``: those to be predicted now.

    Raises:
        UserError: if the sequence is not one of the four, there are no images, or output_dir holds label maps of
            their names that no inference wrote, such as the truth, or that are of other images.
    """
    if sequence not in SEQUENCES:
        raise UserError(f"student_sequence is {sequence!r}, expected one of {list(SEQUENCES)} (one file a case).")
    images = datalist_images(datalist, dataset_dir, sequence) if datalist else find_images(dataset_dir, sequence)
    written = {Path(case["prediction"]).name: case for case in earlier_cases(output_dir)}
    found = {path: image for image in images if (path := label_map(output_dir, image["image"])).is_file()}
    if foreign := [path for path in found if path.name not in written]:
        raise UserError(
            f"output_dir {output_dir} holds {len(foreign)} label map(s) that its inference.json does not list "
            f"({foreign[0].name}), such as the truth or an evaluation's: give another output_dir."
        )
    for path, image in found.items():
        source = written[path.name]["image"]
        if not overwrite and source != str(Path(image["image"]).resolve()):
            raise UserError(
                f"{path} is of another image, {source}, than {image['image']}: give another output_dir, or "
                "--overwrite True to predict it anew."
            )
    left = [image for image in images if overwrite or label_map(output_dir, image["image"]) not in found]
    if done := len(images) - len(left):
        logger.warning(f"{done} of {len(images)} label maps are in {output_dir}: --overwrite True predicts them anew.")
    return {"all": images, "left": left}


def earlier_cases(output_dir: str) -> list[dict[str, Any]]:
    """Cases that earlier inferences into the folder were to predict."""
    path = Path(output_dir, "inference.json")
    return json.loads(path.read_text()).get("cases", []) if path.is_file() else []


def record_inference(
    output_dir: str,
    images: Sequence[Mapping[str, Any]],
    ckpt_path: str | Sequence[str],
    settings: Mapping[str, Any],
    overwrite: bool = False,
    label_values: Sequence[int] | None = None,
) -> None:
    """Write inference.json: these images, those of earlier runs into the same folder, and what made their label maps.

    What is to be overwritten is removed first, so that no label map of before can be taken for one of now.

    Raises:
        UserError: if label maps in the folder were made by other weights or settings, and are not overwritten.
    """
    path = Path(output_dir, "inference.json")
    before = json.loads(path.read_text()) if path.is_file() else {}
    weights = [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path
    settings = {**settings, "weights": [sha256(weight) for weight in weights]}
    kept = [case for case in before.get("cases", []) if Path(case["prediction"]).is_file()]
    other = sorted(key for key in settings if before.get("settings", {}).get(key) != settings[key])
    if kept and other and not overwrite:
        raise UserError(
            f"{output_dir} holds {len(kept)} label map(s) made with other {', '.join(other)}: give another output_dir, "
            "or --overwrite True to predict them anew."
        )
    if overwrite and idist.get_rank() == 0:
        forget_scores(output_dir)
        for path in (path for image in images for path in maps_of(output_dir, image["image"])):
            path.unlink(missing_ok=True)
    now = {image["case"] for image in images}
    earlier = [] if other else [case for case in kept if case["case"] not in now]
    record_run(
        output_dir,
        "inference",
        ckpt_path=ckpt_path,
        cases=[*earlier, *images],
        settings=settings,
        label_values=label_values,
    )


class CheckedImages(Dataset):
    """A MONAI dataset that gives a faulty image as ``{"case", "image", "fault"}`` instead of raising.

    An image is read and checked when its turn comes: 3-D, finite, not empty.

    Args:
        data: entries as find_work gives them.
        transform: the first of its transforms reads the file.
    """

    def __init__(self, data: Sequence[dict], transform: Compose) -> None:
        super().__init__(data, transform)

    def __getitem__(self, index: int) -> Any:
        entry = self.data[index]
        try:
            loaded = self.read(entry)
        except ValueError as error:
            return entry | {"fault": str(error)}
        try:
            return self.transform(loaded, start=1)
        except Exception as error:  # whatever is wrong with one image, the others are still to be predicted
            logger.debug("a transform failed", exc_info=True)
            return entry | {"fault": root_cause(error)}

    def read(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry with its image read. Raises ValueError if there is something wrong with the file."""
        try:
            loaded = self.transform(entry, end=1)
        except Exception as error:  # nibabel, gzip and zlib fail in many ways
            raise ValueError(f"unreadable or truncated ({root_cause(error)})") from error
        image = loaded["image"]
        channels = len(SEQUENCES) if "channels" in entry else 1
        volume = check_shape(Volume(image.numpy(), image.affine.numpy()), channels)
        for fault, _ in check_voxels("image", volume.voxels, set()):
            raise ValueError(fault)
        if (volume.voxels != 0).mean() > LITTLE_BACKGROUND:
            logger.warning(f"{entry['image']}: hardly any voxel is 0, as all outside of the brain must be.")
        return loaded


class Predictor(EnsembleEvaluator):
    """MONAI's EnsembleEvaluator, which notes the patients that fail and goes on; ``run`` reports them at its end.

    Raises:
        UserError: at the end of ``run``, if any patient failed; the message is their table.
    """

    def _iteration(self, engine: EnsembleEvaluator, batchdata: Mapping[str, Any]) -> Any:
        if "fault" in batchdata:
            self.note(batchdata, batchdata["fault"][0])
            return []
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:  # out of memory, a full disk, a transform: the others are still to be predicted
            logger.debug("a prediction failed", exc_info=True)
            self.note(batchdata, root_cause(error))
            engine.state.output = []
            return []

    def note(self, batchdata: Mapping[str, Any], fault: str) -> None:
        image = batchdata["image"]
        path = image.meta["filename_or_obj"] if isinstance(image, MetaTensor) else image
        path = path if isinstance(path, str) else path[0]
        self.faults.append(Fault(batchdata["case"][0], path, fault, "mend or replace the file"))

    def run(self, global_epoch: int = 1) -> None:
        self.faults: list[Fault] = []
        total = len(self.data_loader.dataset)
        if total:
            super().run(global_epoch)
        logger.info(f"Label maps written: {total - len(self.faults)}.")
        settle(self.faults, True, "not predicted. Mend them and run the command again.")


def root_cause(error: BaseException) -> str:
    """The first line of what went wrong at first: MONAI wraps each error into one of the transform."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def make_members(
    network: torch.nn.Module, ckpt_path: str | Sequence[str], device: torch.device, channels_last: bool = False
) -> list[torch.nn.Module]:
    """The networks of an ensemble, one for each file: exported ones, or ``network`` and copies, not loaded yet.

    Args:
        network: what the files hold weights of.
        ckpt_path: one file or several.
        device: to predict on.
        channels_last: lay networks that are not exported out so in memory; the same predictions but for rounding.
    """
    members: list[torch.nn.Module] = []
    for path in [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path:
        if is_exported(path):
            members.append(load_exported(path, device))
            continue
        own = copy.deepcopy(network) if members else network
        if channels_last:
            lay_channels_last(own)
        members.append(own.to(device))
    return members


def load_members(networks: Sequence[torch.nn.Module], ckpt_path: str | Sequence[str]) -> None:
    """Load each file of weights into its network; exported networks bring theirs.

    Raises:
        UserError: if a file is missing or does not fit the network.
    """
    for network, path in zip(networks, [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path):
        if not is_exported(path):
            load_weights(network, path)
