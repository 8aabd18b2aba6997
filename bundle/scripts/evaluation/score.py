"""Score label maps of any tool against the truth, patient by patient, in the truth's own grid."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes
from tqdm import tqdm

from scripts.data.volumes import content_checksum, count_pairs
from scripts.documents import SCORES, some
from scripts.errors import UserError
from scripts.evaluation.folder_values import folder_values
from scripts.evaluation.lesions import SLACK
from scripts.evaluation.meaning import Meaning
from scripts.evaluation.metrics import bounding_box, region_metrics
from scripts.evaluation.pairs import Pair, read_volumes, warn_of_meanings
from scripts.evaluation.parallel import choose_workers, map_in_order
from scripts.evaluation.patients import named_patients
from scripts.evaluation.summary import CaseScore, check_same_patients, print_table, write_scores
from scripts.faults import Fault, FileFault, report_faults
from scripts.files import check_output, read_own_json
from scripts.folders.map_files import find_label_maps, label_map
from scripts.labels import CLASSES, EMPTY_RULES, REGIONS, TABLE_ORDER

logger = logging.getLogger(__name__)

OWN = [name for name in SCORES if name.startswith("metrics")]
MARKS = {".csv": "case,region,dice", ".json": "empty_rule_meaning"}  # what only these files hold


def score(
    pred: str,
    truth: str,
    output: str,
    empty_rule: str = "brats",
    et_threshold_ml: float = 0.0,
    label_values: str | Sequence[int] | None = None,
    pred_values: str | Sequence[int] | None = None,
    truth_values: str | Sequence[int] | None = None,
    workers: int = 0,
) -> None:
    """Score label maps of any tool: Dice, HD95 and more of each patient, and their means.

    Args:
        pred: folder of label maps: BraTS folders, or NIfTI files named after the case (NAME.nii.gz, NAME_seg.nii.gz).
        truth: folder of the true label maps, named in the same way.
        output: the CSV to write, with one row a case and region; the means go to a JSON file beside it.
        empty_rule: "brats" or "exclude", for regions that are empty in truth or prediction.
        et_threshold_ml: above 0, also write NAME_et_cleared.csv, where enhancing tumour below this volume counts as
            NCR.
        label_values: what values on disk mean: nnunet, brats2018, brats2023, brats2024 (4 is the resection cavity),
            msd, or the values of background, NCR, ED, ET; by default as a run's record or dataset.json in the folder
            says, or a dataset.json above it, else 0, 1, 2, and 3 or 4.
        pred_values: the same, of the predictions alone.
        truth_values: the same, of the truth alone.
        workers: processes that score patients at the same time; 0 takes one for every four patients, and at most
            one a core. The result is the same with any number.

    Raises:
        UserError: if there is nothing to score, a case has no truth, or files do not fit together.
    """
    meanings = meanings_of(label_values, (pred_values, pred), (truth_values, truth))
    predicted, true = find_label_maps(pred, "pred"), find_label_maps(truth, "truth")
    if missing := sorted(set(predicted) - set(true)):
        raise UserError(
            f"truth {truth} has no label map of {', '.join(missing)}: name files after the case, as in {pred}, "
            f"or remove these predictions."
        )
    if rest := sorted(set(true) - set(predicted)):
        logger.warning(f"{len(rest)} case(s) of {truth} have no prediction and are not scored: {', '.join(rest)}.")
    check_same_patients(Path(output), predicted)
    pairs = [Pair(case, path, true[case]) for case, path in predicted.items()]
    score_pairs(pairs, output, empty_rule, et_threshold_ml, meanings, workers, **recorded(pred, predicted))


def recorded(pred: str, predicted: Collection[str] = ()) -> dict[str, Any]:
    """What the record of a folder says of its label maps: the volume in ml below which they hold no parts (None if that
    is not known), and the patient of each case. Warns if not all of these cases were predicted with the same settings.
    """
    form: dict[str, Any] = {"cases?": [{"case?": str, "patient?": str}]}
    form |= {"earlier?": [dict(form)]}
    for name, part in {"inference.json": "settings", "evaluation.json": "configuration"}.items():
        path = Path(pred, name)
        if path.is_file() and (record := read_own_json(path, "pred", form | {f"{part}?": dict})) is not None:
            found = record.get(part, {}).get("smallest_part_ml")
            limit = found if isinstance(found, (int, float)) and not record.get("earlier") else None
            groups = [group.get("cases", []) for group in (record, *record.get("earlier", []))]
            scored = [sorted({case.get("case") for case in group} & {*predicted}) for group in groups]
            if sum(map(bool, scored)) > 1:
                others = [case for group in scored[1:] for case in group]
                logger.warning(
                    f"pred {pred}: {name} says that {len(others)} of {len(predicted)} label maps were made by other "
                    f"weights or settings ({some(others)}), so the means mix networks: predict these again with "
                    "--overwrite True, or score them apart."
                )
            return {"smallest_part_ml": limit, "patient": named_patients(chain(*groups))}
    return {}


def score_cases(
    cases: Sequence[Mapping],
    pred: str,
    output: str,
    empty_rule: str = "brats",
    et_threshold_ml: float = 0.0,
    label_values: Sequence[int] | None = None,
    smallest_part_ml: float | None = None,
) -> None:
    """As ``score``, for the label maps that an evaluation wrote to ``pred``, against the labels of its cases.

    ``smallest_part_ml`` is recorded with the scores.
    """
    pairs = [Pair(case["case"], label_map(pred, case["image"], case["case"]), Path(case["label"])) for case in cases]
    meanings = meanings_of(label_values)
    about: dict[str, Any] = {"smallest_part_ml": smallest_part_ml, "patient": named_patients(cases)}
    score_pairs(pairs, output, empty_rule, et_threshold_ml, meanings, **about)


def meanings_of(both: Any, pred: tuple[Any, str] = (None, ""), truth: tuple[Any, str] = (None, "")) -> list[Meaning]:
    """What the values of predictions and truth mean, as given for a side, else for both, else as its folder says.

    Args:
        both: the values that are given for both.
        pred: those of the predictions, and their folder.
        truth: the same of the truth.
    """
    if both is not None:
        Meaning(both)  # so that a wrong value is named as label_values
    meanings = []
    for key, (own, folder) in {"pred_values": pred, "truth_values": truth}.items():
        values = both if own is None else own
        meanings.append(Meaning(folder_values(folder, key) if values is None and folder else values, key))
    return meanings


class PairScores(NamedTuple):
    """What scoring one case gives: scores by threshold and region, and what is in its label maps."""

    scores: list[list[CaseScore]]
    voxels: np.ndarray  # by predicted and true class, (4, 4), in the box around the tumour
    enhancing: list[dict[int, Path]]  # of prediction and truth, see ``Meaning``
    checksums: tuple[int, int]  # of the network classes in prediction and truth


def score_pairs(
    pairs: Sequence[Pair],
    output: str,
    empty_rule: str,
    et_threshold_ml: float,
    meanings: Sequence[Meaning],
    workers: int = 0,
    **about: Any,
) -> None:
    """Write and print the scores of all pairs, or write nothing and report every faulty file; ``about`` as for
    ``write_scores``.
    """
    check_options(output, empty_rule)
    thresholds = [0.0, float(et_threshold_ml)] if et_threshold_ml else [0.0]
    task = partial(score_pair, meanings=meanings, thresholds=thresholds, empty_rule=empty_rule)
    in_order = map_in_order(task, pairs, choose_workers(workers, len(pairs)))
    found = list(tqdm(in_order, total=len(pairs), desc="Scoring", disable=None))
    report_faults([result for result in found if isinstance(result, Fault)], True, "fix them, or take them away.")
    results = [result for result in found if isinstance(result, PairScores)]
    for index, meaning in enumerate(meanings):
        for result in results:
            meaning.enhancing |= result.enhancing[index]
        meaning.check_one_edition()
    warn_of_meanings(np.sum([result.voxels for result in results], axis=0))
    about |= {
        "truth": {pair.case: str(pair.truth.resolve()) for pair in pairs},
        "truth_values": meanings[1].label_values,
        "prediction_checksum": {pair.case: result.checksums[0] for pair, result in zip(pairs, results)},
        "truth_checksum": {pair.case: result.checksums[1] for pair, result in zip(pairs, results)},
    }
    plain, cleared = Path(output), cleared_path(output)
    for stale in (plain, cleared, cleared.with_suffix(".json")):
        stale.unlink(missing_ok=True)  # of an earlier scoring, perhaps by another threshold
    for index, threshold in reversed([*enumerate(thresholds)]):  # where there is the plain table, the work is done
        scores = [item for result in results for item in result.scores[index]]
        path = cleared if threshold else plain
        print_table(write_scores(path, scores, empty_rule, et_threshold_ml=threshold, **about))
        print(f"-> {path}\n")


def score_pair(
    pair: Pair, meanings: Sequence[Meaning], thresholds: Sequence[float], empty_rule: str
) -> PairScores | Fault:
    """Scores of one case, or what is wrong with a file."""
    try:
        volumes = read_volumes(pair, *meanings)
    except FileFault as error:
        return Fault(pair.case, str(error.path), str(error), error.remedy)
    (classes, truth), spacing = (volume.voxels for volume in volumes), voxel_sizes(volumes[1].affine).tolist()
    checksums = content_checksum(volumes[0]), content_checksum(volumes[1])
    # Nothing lies outside the box, but all slices along the first axis count in slice_mean_dice.
    box = (slice(None), *bounding_box((classes > 0) | (truth > 0))[1:])
    classes, truth = np.ascontiguousarray(classes[box]), np.ascontiguousarray(truth[box])
    scores = []
    for threshold in thresholds:
        label = without_small_et(classes, spacing, threshold)
        scores.append(case_scores(pair.case, label, truth, spacing, empty_rule))
    return PairScores(scores, count_pairs(classes, truth), [meaning.enhancing for meaning in meanings], checksums)


def without_small_et(classes: np.ndarray, spacing: Sequence[float], threshold_ml: float) -> np.ndarray:
    """Network classes (H, W, D) where enhancing tumour is NCR if its whole volume is below the threshold."""
    enhancing = classes == CLASSES.index("ET")
    if np.count_nonzero(enhancing) * float(np.prod(spacing)) / 1000 * SLACK >= threshold_ml:
        return classes
    return np.where(enhancing, CLASSES.index("NCR"), classes)


def cleared_path(output: str) -> Path:
    """Where the scores with small enhancing tumour cleared go."""
    return Path(output).with_stem(f"{Path(output).stem}_et_cleared")


def check_options(output: str, empty_rule: str) -> None:
    """Raises UserError for an option that scoring cannot use, before any file is read."""
    check = partial(check_output, key="output", suffix=".csv", beside=MARKS, own=OWN)
    check(output)
    check(str(cleared_path(output)))
    if empty_rule not in EMPTY_RULES:
        raise UserError(f"empty_rule is {empty_rule!r}, expected one of {sorted(EMPTY_RULES)}.")


def case_scores(
    case: str, predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float], empty_rule: str
) -> list[CaseScore]:
    """Metrics of every region of one case; label maps (H, W, D) in network classes, spacing in mm."""
    scores = []
    classes = dict(REGIONS)
    for region in TABLE_ORDER:
        found, real = (np.isin(label, classes[region]) for label in (predicted, truth))
        empty = not (found.any() and real.any())
        scores.append(CaseScore(case, region, region_metrics(found, real, spacing, empty_rule), empty))
    return scores
