"""MONAI Label's app for bundles, with errors in a sentence and the most uncertain study as the next one.

serve.py copies this file to the app's folder as main.py. MONAI Label's own main.py is bundle_app.py there.
guarded_store.py stays here, in a folder of PYTHONPATH.
"""

from __future__ import annotations

import logging
from typing import Any

import bundle_app
import torch
from fastapi import HTTPException
from guarded_store import check_image, check_values, guard
from monai.transforms import Activationsd
from monailabel.interfaces.app import MONAILabelApp
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring

logger = logging.getLogger(__name__)

UNCERTAINTY = "uncertainty"  # of the strategy, the scoring method and an image's score


class LabelApp(bundle_app.MyApp, MONAILabelApp):
    """The app that the server runs. MONAI Label looks for a class with MONAILabelApp among its bases."""

    def init_datastore(self) -> Any:
        """MONAI Label's store with the checks of guarded_store.py."""
        store = super().init_datastore()
        return guard(store, str(getattr(store, "_datastore_path", self.studies)), self.label_names)

    def label_names(self) -> dict[str, int]:
        """Value of each class in label maps by its name, as metadata.json says it."""
        (task,) = self._infers.values()
        return dict(task.labels)

    def init_strategies(self) -> dict[str, Any]:
        most_uncertain = Epistemic(key=UNCERTAINTY, desc="The study with the most uncertain label map")
        return {UNCERTAINTY: most_uncertain, **super().init_strategies()}

    def init_scoring_methods(self) -> dict[str, Any]:
        """The method that scores each study in the background, at the start and after each choice of a study."""
        (bundle,) = self.models.values()
        return {UNCERTAINTY: Uncertainty(Probabilities(bundle, self.conf, skip_writer=True))}

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """MONAI Label's answer; a 4xx with a sentence where the request or its image is at fault."""
        known = ", ".join(sorted(self._infers))
        if request.get("model") not in self._infers:
            raise HTTPException(404, f"model is {request.get('model')!r}, expected one of: {known}.")
        check_image(request.get("image"), datastore or self.datastore())
        try:
            return super().infer(request, datastore)
        except Exception as error:
            if sentence := user_sentence(error):
                raise HTTPException(422, sentence) from error
            raise

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """MONAI Label's training; an error names a label with a value that has no name."""
        for entry in self.datastore().datalist():
            check_values(entry["label"], entry["label"], self.label_names(), earlier=True)
        return super().train(request)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The next study; a 404 for a strategy that does not exist."""
        if (strategy := request.get("strategy")) not in self._strategies:
            known = ", ".join(self._strategies)
            raise HTTPException(404, f"strategy is {strategy!r}, expected one of: {known}.")
        return super().next_sample(request)


class Probabilities(BundleInferTask):
    """The bundle's network with the classes' probabilities, in the network's grid, as its result."""

    def post_transforms(self, data: Any = None) -> list[Any]:
        return [Activationsd(keys=self.key_pred, softmax=True)]


class Uncertainty(EpistemicScoring):
    """Scores each study without a label by the uncertainty of its label map, once for each model."""

    def __init__(self, infer_task: BundleInferTask) -> None:
        super().__init__(infer_task)
        self.description = "Entropy of the label map for each voxel of tumour"

    def __call__(self, request: dict[str, Any], datastore: Any) -> Any:
        return super().__call__({"max_workers": 1, **request}, datastore)  # leaves processors to people who wait

    def run_scoring(self, image_id: str, simulation_size: int, model_ts: int, datastore: Any) -> None:
        request = {"image": datastore.get_image_uri(image_id), "logging": "error", "cache_transforms": False}
        score = 0.0
        try:
            _, data = self.infer_task(request)
            score = uncertainty(data[self.infer_task.key_pred], data[self.infer_task.key_image])
        except Exception as error:  # one faulty study must not keep the others from being scored
            logger.warning(f"{image_id} has no score: {user_sentence(error) or error}")
        datastore.update_image_info(image_id, {UNCERTAINTY: score, self.key_output_ts: model_ts})


def uncertainty(probabilities: torch.Tensor, image: torch.Tensor) -> float:
    """Entropy in the brain, Σ -p log p, divided by the voxels of tumour. Most where tumour is small or hardly seen.

    Shapes: (C, H, W, D), (1, H, W, D).
    """
    classes = torch.as_tensor(probabilities).float().cpu()
    brain = torch.as_tensor(image)[0].cpu() != 0
    entropy = torch.special.entr(classes).sum(dim=0)[brain].sum().item()
    return entropy / max(1, int((classes.argmax(dim=0)[brain] > 0).sum()))


def user_sentence(error: BaseException | None) -> str | None:
    """The sentence of the bundle's UserError behind an error, found by name: MONAI Label imports the bundle again."""
    while error is not None:
        if type(error).__name__ == "UserError":
            return str(error)
        error = error.__cause__ or error.__context__
    return None
