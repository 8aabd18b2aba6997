"""Prediction of many patients: a patient that fails does not stop the others."""

from __future__ import annotations

import copy
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import EnsembleEvaluator
from monai.engines.utils import IterationEvents, engine_apply_transform
from monai.utils import ensure_tuple

from scripts.device import lay_channels_last
from scripts.errors import UserError, find_sentence, kind_and_reason, root_of
from scripts.faults import Fault, report_faults
from scripts.inference.checked_images import REMEDY
from scripts.inference.exported import is_exported, load_exported
from scripts.inference.writers import together
from scripts.method.weights import load_weights

logger = logging.getLogger(__name__)

OF_ONE = (errno.ENAMETOOLONG, errno.EISDIR)  # errors of one file name: the next patient may be fine

WRITER = ThreadPoolExecutor(1)


class Predictor(EnsembleEvaluator):
    """MONAI's EnsembleEvaluator, which continues after a patient that fails; ``run`` ends with a report of these.

    A thread postprocesses and writes a patient while the network computes the next one.

    ``written`` is called with the name of each case whose label map is written, before a DICOM SEG of it; a handler may
    set it.

    Raises:
        UserError: at the end of ``run``, if any patient failed; the message is a table of them.
    """

    writing: tuple[Mapping[str, Any], Future] | None = None

    def written(self, case: str) -> None:
        pass

    def _iteration(self, engine: EnsembleEvaluator, batchdata: Mapping[str, Any]) -> Any:
        if "fault" in batchdata:
            self.add_fault(batchdata, batchdata["fault"][0], batchdata["remedy"][0])
            return []
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:  # out of memory, a transform: the others must still be predicted
            self.fail(batchdata, error)
            engine.state.output = []
            return []

    def _register_postprocessing(self, posttrans: Callable) -> None:
        @self.on(IterationEvents.MODEL_COMPLETED)
        def hand_over(engine: EnsembleEvaluator) -> None:
            self.wait_for_writer()
            items = list(zip(engine.state.batch, engine.state.output))  # decollated before

            def postprocess() -> None:
                for data, output in items:
                    with together(partial(self.written, data["case"])):
                        engine_apply_transform(data, output, posttrans)

            self.writing = items[0][0], WRITER.submit(postprocess)

    def wait_for_writer(self) -> None:
        """Until the last patient is written, or has failed."""
        if self.writing is None:
            return
        (data, future), self.writing = self.writing, None
        try:
            future.result()
        except Exception as error:
            self.fail(data, error)

    def fail(self, batchdata: Mapping[str, Any], error: Exception) -> None:
        """Remember a patient that failed. Raises UserError if the next one would fail in the same way."""
        sentence = find_sentence(error)
        if sentence and getattr(root_of(error), "errno", None) not in OF_ONE:
            raise UserError(sentence) from error
        logger.debug("a prediction failed", exc_info=error)
        self.add_fault(batchdata, sentence or kind_and_reason(root_of(error)))

    def add_fault(self, batchdata: Mapping[str, Any], fault: str, remedy: str = REMEDY) -> None:
        """Remember a patient that failed."""
        image = batchdata["image"]
        path = image.meta["filename_or_obj"] if isinstance(image, MetaTensor) else image
        while not isinstance(path, str):  # of a batch of one, and of several files the first
            path = path[0]
        case = batchdata["case"]
        self.faults.append(Fault(case if isinstance(case, str) else case[0], path, fault, remedy))

    def run(self, global_epoch: int = 1) -> None:
        self.faults: list[Fault] = []
        total = len(self.data_loader.dataset)
        if total:
            super().run(global_epoch)
            self.wait_for_writer()
        logger.info(f"Patients predicted: {total - len(self.faults)}.")
        report_faults(self.faults, True, "not predicted. Fix them and run the command again.")


def make_members(
    network: torch.nn.Module, ckpt_path: str | Sequence[str], device: torch.device, channels_last: bool = False
) -> list[torch.nn.Module]:
    """The networks of an ensemble, one for each file: exported ones, or ``network`` and copies, without weights yet.

    Args:
        network: the network whose weights the files hold.
        ckpt_path: one file or several.
        device: to predict on.
        channels_last: the memory layout of networks that are not exported; predictions differ by rounding alone.
    """
    members: list[torch.nn.Module] = []
    for path in ensure_tuple(ckpt_path):
        if is_exported(path):
            members.append(load_exported(path, device))
            continue
        own = copy.deepcopy(network) if members else network
        if channels_last:
            lay_channels_last(own)
        members.append(own.to(device))
    return members


def load_members(networks: Sequence[torch.nn.Module], ckpt_path: str | Sequence[str]) -> None:
    """Load each file of weights into its network; exported networks hold theirs.

    Raises:
        UserError: if a file is missing or does not fit the network.
    """
    for network, path in zip(networks, ensure_tuple(ckpt_path)):
        if not is_exported(path):
            load_weights(network, path)
