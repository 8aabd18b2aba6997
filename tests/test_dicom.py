"""DICOM in and out: which series is taken, its volume in space, and the DICOM SEG, against pydicom and ITK."""

import gzip
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from nibabel.affines import apply_affine

pydicom = pytest.importorskip("pydicom", minversion="3", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from pydicom.dataset import Dataset  # noqa: E402

from dicom_folders import oblique, write_dicom  # noqa: E402
from scripts.data.phantom import draw_patient  # noqa: E402
from scripts.errors import UserError  # noqa: E402
from scripts.evaluation.patients import count_patients, named_patients  # noqa: E402
from scripts.folders.dicom import Series, write_series  # noqa: E402
from scripts.folders.series import choose, judge  # noqa: E402
from scripts.folders.studies import choose_asked, study_image  # noqa: E402
from scripts.inference.checked_images import CheckedImages  # noqa: E402
from scripts.inference.dicom_seg import check_dicom, write_dicom_seg  # noqa: E402
from scripts.inference.record import record_inference  # noqa: E402
from scripts.inference.worklist import find_work  # noqa: E402
from scripts.method.resunet import ResUNet  # noqa: E402

AFFINE = oblique()


@pytest.fixture(scope="module")
def brain():
    """Whole numbers (column, row, slice) of 5 x 5 x 10 mm."""
    return draw_patient(np.random.default_rng([3, 0]), 32)[0]["t1ce"].round()[:, :, ::2]


def header(**tags):
    """A header of one image of a T1ce series; None leaves a tag out."""
    image, same = Dataset(), {
        "Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "ImageType": ["ORIGINAL", "PRIMARY"],
        "SeriesDescription": "t1_mprage_tra_KM", "PixelSpacing": [1, 1], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [0, 0, 0], "FrameOfReferenceUID": "1.2.3", "Rows": 200, "Columns": 200,
    }  # fmt: skip
    for keyword, value in (same | tags).items():
        if value is not None:
            setattr(image, keyword, value)
    return image


def stack(count=150, gap=1.0, **tags):
    """A series of so many slices."""
    row, column = np.reshape(tags.get("ImageOrientationPatient") or [1.0, 0, 0, 0, 1, 0], (2, 3))
    places = [(np.cross(row, column) * gap * index).tolist() for index in range(count)]
    headers = [header(**({"ImagePositionPatient": place} | tags)) for place in places]
    return Series(headers, [Path(f"{index}") for index in range(count)])


AGENT = {"ContrastBolusAgent": "Gadovist"}
T1_TIMES = {"EchoTime": 10, "RepetitionTime": 500}
KINDS = {  # tags: the reason for or against
    "T1W +C": ({}, "contrast"),
    "AX T1 POST GAD": ({}, "contrast"),
    "t1_mprage_tra_p2_iso_KM": ({}, "contrast"),
    "eT1W_3D_TFE C+": ({}, "contrast"),
    "T1 FLAIR with contrast": ({}, "contrast"),
    "Ax BRAVO": (AGENT, "Gadovist"),
    "Sag 3D": (AGENT | T1_TIMES, "echo and repetition time"),
    "t1_tirm_tra_dark-fluid KM": ({}, "contrast"),
    "T1 POSTOP": (AGENT, "Gadovist"),
    "T1 posterior fossa": ({}, "!no contrast"),
    "T1 pre op +C": ({}, "contrast"),
    "AX T1": ({}, "!no contrast"),
    "T1 axial": ({"ContrastBolusAgent": "NONE"}, "!no contrast"),
    "AX T1 PRE": (AGENT, "!before contrast"),
    "AX T1 W/O CONTRAST": (AGENT, "!before contrast"),
    "T1 nativ": (AGENT, "!before contrast"),
    "T1 non-contrast": (AGENT, "!before contrast"),
    "t1 tra": ({"ContrastBolusAgent": "kein KM"}, "!no contrast"),
    "t1 cor": ({"ContrastBolusAgent": "Buscopan"}, "!no contrast"),
    "T1 mit Kontrast": ({}, "contrast"),
    "T1 without FS +C": ({}, "contrast"),
    "AX T1 POST CONTRAST PRE SURGERY": ({}, "contrast"),
    "T1 pre and post": ({}, "!before .* and after"),
    "T2 FLAIR +C": ({}, "!T2"),
    "FLAIR post": ({}, "!FLAIR"),
    "Sag 3D +C": ({"EchoTime": 90, "RepetitionTime": 4000}, "!neither"),
    "T1 +C SUB": ({}, "!subtraction"),
    "T1 +C MIP": ({}, "!projection"),
    "T1 C SPINE +C": ({}, "!another part"),
    "t1 perf dyn KM": ({}, "!perfusion"),
    "T1 +C 3-plane loc": ({}, "!localizer"),
    "AX GRE": (AGENT | T1_TIMES, "!gradient echo"),
    "T1 GRE": (AGENT, "Gadovist"),
    "Sag 3D FIESTA": (AGENT | {"EchoTime": 2, "RepetitionTime": 5}, "!steady state"),
    "b-FFE": (AGENT | T1_TIMES, "!steady state"),
    "gre_field_mapping": (AGENT | T1_TIMES, "!field map"),
    "B1 map": (AGENT | T1_TIMES, "!field map"),
    "T1 +C ": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "!localizer"),
    "T1 +C  ": ({"Modality": "CT"}, "!modality CT"),
    "T1 +C   ": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "!screenshot"),
    "T1 +C    ": ({"ImageOrientationPatient": None}, "contrast"),  # a fault, once it is chosen
}


@pytest.mark.parametrize("description", KINDS)
def test_a_series_is_judged_by_its_description_and_tags(description):
    tags, expected = KINDS[description]
    verdict = judge(stack(2, 120, SeriesDescription=description, **tags))
    assert bool(verdict.against) == expected.startswith("!"), verdict
    assert re.search(expected.lstrip("!"), "; ".join(verdict.against or verdict.reasons)), verdict


BEFORE = [
    "T1 MPRAGE vor KM", "AX T1 -C", "AX T1 (-C)", "T1 C-", "T1 - GD", "t1_mprage_-KM", "T1 before gad", "T1 avant gado",
    "T1 antes gad", "T1 voor contrast", "T1 senza contrasto", "T1 minus contrast", "T1 GD NO", "T1 KM nein",
    "T1 kontrastmittelfrei", "T1 GDneg", "T1 prior to contrast", "T1 \N{EN DASH}C", "T1 GD (-)", "T1 +/- C", "T1-C",
    "T1 0 KM", "T1 prima mdc", "T1 ohneKM", "T1 mit und ohne KM", "AX T1 NON CON", "T1 NONCON", "T1 PRE-CON",
    "T1 NCE", "T1 0 ml gd", "T1 0.0 KM", "T1 kontrastsiz", "T1 kontrast öncesi",
]  # fmt: skip
UNKNOWN = [  # the word before that of the agent may mean "without"
    "T1 o. KM", "T1 o KM", "T1 oKM", "t1 o/KM", "T1 v. KM", "T1 av. KM", "T1 prä KM", "T1 prae KM", "T1 nicht KM",
    "T1 pré gado", "T1 s.contraste", "T1 utan kontrast", "T1 uden kontrast", "T1 uten kontrast", "T1 ikke kontrast",
    "T1 inte kontrast", "T1 ej kontrast", "T1 före kontrast", "T1 før kontrast", "T1 fara contrast",
    "T1 fara administrare de contrast", "T1 sense contrast", "T1 brez kontrasta", "T1 be kontrasto", "T1 s mdc",
    "utan kontrast T1", "T1 Ferguson KM",
]  # fmt: skip
SILENT = [
    "t1_postsurgery", "T1 post rt", "T1 post-treatment", "T1 postop", "VIBE_postproc", "T1 post recon", "T1 post GK",
    "T1 post injury", "",
]  # fmt: skip
AFTER = [
    "T1 +C", "T1 (+C)", "T1 C+", "T1-C+", "T1-Gd", "T1-CE", "t1_mprage_tra_KM", "t1_mprage_1.0_KM", "T1 Gd 0.9mm",
    "T1 post gad", "T1 post-KM", "T1 nach KM", "T1 post contrast", "AX T1 POST", "AX T1 POST FS", "T1 POST NON FS",
    "POST T1 3D", "T1 GD NO FAT SAT", "T1 post rt +C", "T1 vor OP mit KM", "AX T1 - POST CONTRAST", "T1 Gd-DTPA",
    "T1 mKM", "T1 m. KM", "T1 med kontrast", "T1 pós gd", "T1 après injection de gado", "T1 nach i.v. KM", "KM T1 tra",
    "T1 con medio de contraste", "T1 10 ml Gd", "T1 post GK gad", "CUBE T1 GD", "STEALTH T1 GAD", "T1W/KM",
    "COR T1 SE MTC GD", "AX T1 propeller Gd", "T1 Thin cut Gd", "T1 TUMOR GD", "ROUTINE T1 CONTRAST", "VOL T1 GADO",
]  # fmt: skip


@pytest.mark.parametrize("description", BEFORE + UNKNOWN)
def test_a_series_from_before_contrast_or_in_doubt_is_not_taken_whatever_its_tags_say(description):
    for tags in ({}, AGENT):
        assert "before contrast" in judge(stack(2, 120, SeriesDescription=description, **tags)).why


@pytest.mark.parametrize("description", SILENT)
def test_a_description_that_is_empty_or_says_after_what_else_tells_nothing_of_contrast(description):
    assert "no contrast" in judge(stack(2, 120, SeriesDescription=description, **T1_TIMES)).why
    verdict = judge(stack(2, 120, SeriesDescription=description, **T1_TIMES, **AGENT))
    assert not verdict.against and not verdict.said and "Gadovist" in verdict.why


@pytest.mark.parametrize("description", AFTER)
def test_a_series_from_after_contrast_is_taken_by_its_description(description):
    verdict = judge(stack(2, 120, SeriesDescription=description, **T1_TIMES))
    assert not verdict.against and verdict.said, verdict


NO_AGENT = [
    "None given", "nil", "-", "unknown", "N.A.", "not given", "not applicable", "FALSE", "saline", "NaCl", "no agent",
    "Gadovist 0ml", "Gadovist 0.0 ml", "Gadovist not given", "NO CONTRAST", "10 ml",
]  # fmt: skip


@pytest.mark.parametrize("agent", NO_AGENT)
def test_tags_that_name_no_contrast_agent_do_not_count(agent):
    verdict = judge(stack(2, 120, SeriesDescription="AX T1", ContrastBolusAgent=agent))
    assert verdict.why == f"no contrast in description or tags (agent {agent!r})"


@pytest.mark.parametrize("agent", ["Gadovist 10.0 ml", "Gd-DOTA 0.5 mmol/ml", "15 MULTIHANCE", "YES", "contrast"])
def test_tags_that_name_an_agent_count_unless_its_volume_is_0(agent):
    coded = {"ContrastBolusAgentSequence": [header(CodeMeaning=agent)]}
    for tags in ({"ContrastBolusAgent": agent}, coded):
        volumes = [judge(stack(2, 120, SeriesDescription="T1", ContrastBolusVolume=ml, **tags)) for ml in (None, 7, 0)]
        assert [bool(verdict.against) for verdict in volumes] == [False, False, True]
        assert volumes[2].why == f"no contrast in description or tags (agent {agent!r}, volume 0)"


SAGITTAL = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
CHOICES = [  # the first is better, by the reason
    (stack(SeriesDescription="T1 +C"), stack(SeriesDescription="T1", **AGENT), "says contrast"),
    (stack(25, 5, SeriesDescription="AX T1", **AGENT), stack(SeriesDescription="AX", **AGENT, **T1_TIMES), "says T1"),
    (stack(50, 3), stack(ImageType=["DERIVED", "SECONDARY", "MPR"]), "is original"),
    (stack(**SAGITTAL), stack(30, 5), "finest, 1 mm"),
    (stack(30, 5), stack(30, 5, **SAGITTAL), "is axial"),
]


@pytest.mark.parametrize("better, other, reason", CHOICES, ids=[reason for *_, reason in CHOICES])
def test_the_better_of_two_series_is_chosen_and_the_reason_told(better, other, reason):
    for order in ((better, other), (other, better)):
        verdicts = [judge(series) for series in order]
        (chosen,) = choose(verdicts)
        assert chosen.series is better and reason in chosen.why
        assert all(reason in verdict.why for verdict in verdicts)
    assert len(choose([judge(better), judge(better)])) == 2


def with_images(series, **changes):
    """The series with some images changed, or left out where the change is None."""
    for index, tags in changes.items():
        for keyword, value in (tags or {}).items():
            setattr(series.headers[int(index[1:])], keyword, value)
    kept = [image for index, image in enumerate(series.headers) if changes.get(f"i{index}", {}) is not None]
    return Series(kept, series.files[: len(kept)])


def test_a_whole_series_is_taken_before_a_finer_one_with_a_gap():
    fine, whole = with_images(stack(), i7=None), stack(30, 5)
    (chosen,) = choose([judge(fine), judge(whole)])
    assert chosen.series is whole and "is whole" in chosen.why
    assert [verdict.series for verdict in choose([judge(fine)])] == [fine]  # its fault is told later


FAULTS = {
    "whole": (stack(20, 5), r"^$"),
    "turned": (stack(20, 5, **SAGITTAL), r"^$"),
    "rounded positions": (with_images(stack(20, 5), i7={"ImagePositionPatient": [0, 0, 35.04]}), r"^$"),
    "missing": (
        with_images(stack(20, 5), i7=None, i8=None, i12=None),
        "^3 missing .*: 15 mm after slice .*elsewhere 5 mm",
    ),
    "uneven": (with_images(stack(20, 5), i7={"ImagePositionPatient": [0, 0, 36]}), "4 to 6 mm apart"),
    "twice": (with_images(stack(20, 5), i7={"ImagePositionPatient": [0, 0, 30]}), "1 of 20 slices lie where another"),
    "mixed": (with_images(stack(20, 5), i7=SAGITTAL), "mixed slices of 2 directions"),
    "sizes": (with_images(stack(20, 5), i7={"Rows": 100}), "mixed slices of 2 sizes"),
    "no size": (with_images(stack(20, 5), i7={"Rows": None}), r"without a valid Rows, such as 7,"),
    "no place": (stack(20, 5, ImagePositionPatient=None), "without a valid ImagePositionPatient"),
    "inverted": (stack(20, 5, PhotometricInterpretation="MONOCHROME1"), "is MONOCHROME1, expected MONOCHROME2"),
    "one": (stack(1), "single slice"),
    "echoes": (with_images(stack(20, 5, EchoTime=3), i7={"EchoTime": 4}), "^mixed slices: EchoTime 3 and 4$"),
    "near echoes": (with_images(stack(20, 5, EchoTime=3), i7={"EchoTime": 3.01}, i8={"EchoTime": None}), "^$"),
    "repetitions": (
        with_images(stack(20, 5, RepetitionTime=9), i7={"RepetitionTime": 500}),
        "RepetitionTime 9 and 500",
    ),
    "descriptions": (
        with_images(stack(20, 5), i7={"SeriesDescription": "t1"}),
        "mixed slices: SeriesDescription t1 and t1_mprage_tra_km",
    ),
    "a description lacks": (with_images(stack(20, 5), i7={"SeriesDescription": None}), "^$"),
    "contrast": (with_images(stack(20, 5), i7=AGENT), "mixed slices: ContrastBolusAgent none and gadovist"),
    "kinds": (
        with_images(stack(20, 5), i7={"ImageType": ["DERIVED", "PRIMARY"]}),
        r"mixed slices: ImageType derived.primary and original.primary",
    ),
    "letters": (with_images(stack(20, 5, **AGENT), i7={"ContrastBolusAgent": "GADOVIST "}), "^$"),
    "shorter kinds": (with_images(stack(20, 5), i7={"ImageType": ["ORIGINAL", "PRIMARY", "M"]}), "^$"),
    "filters": (
        with_images(stack(20, 5, ImageType=["A", "B", "M", "ND"]), i7={"ImageType": ["A", "B", "M", "NORM"]}),
        "^$",
    ),
    "acquisitions": (with_images(stack(20, 5, AcquisitionNumber=1), i7={"AcquisitionNumber": 2}), "^$"),
    "one UID": (stack(20, 5, SOPInstanceUID="1.2.9"), "20 slices have 1 SOPInstanceUID"),
    "rounded directions": (stack(20, 5, ImageOrientationPatient=[1, 0.0009, 0, 0, 1, 0]), "^$"),
    "skewed": (stack(20, 5, ImageOrientationPatient=[1, 0.01, 0, 0, 1, 0]), r"not perpendicular \(0\.6 degrees\)"),
    "no directions": (stack(20, 5, ImageOrientationPatient=[0] * 6), "of length 0 and 0, expected 1"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_images_that_are_no_volume_are_a_fault(kind):
    series, expected = FAULTS[kind]
    assert re.search(expected, series.fault() or series.doubt())


def numbered(series, first, of, step=1, **changes):
    """The series with numbers from ``first``, of an acquisition of so many images; other attributes changed."""
    for index, image in enumerate(series.headers):
        image.InstanceNumber, image.AcquisitionNumber, image.ImagesInAcquisition = first + step * index, 1, of
        for keyword, value in changes.items():
            setattr(image, keyword, value)
    return series


CUT = {  # a series of 110 slices: its fault, or ("!") what its table says
    "its first slices lack": (numbered(stack(110), 51, 160), "missing slices: 110 of the 160 images of its"),
    "its last slices lack": (numbered(stack(110), 1, 160), "missing slices: .*, numbers 1 to 110"),
    "its last slices of a text": (numbered(stack(110), 1, "160"), "missing slices"),
    "it may be one of two of an acquisition": (
        numbered(stack(110), 111, 220),
        "!perhaps slices are missing: 110 of the 220",
    ),
    "it may be of the middle": (numbered(stack(110), 21, 160), "!perhaps slices are missing: 110 of the 160"),
    "no count, another start": (
        numbered(stack(110), 51, None),
        "!perhaps slices are missing: numbers 51 to 160, not from 1",
    ),
    "two acquisitions": (numbered(stack(110), 1, 160), ""),
    "whole": (numbered(stack(110), 1, 110), ""),
    "a fifth, which were numbered so": (numbered(stack(110), 1, 22), ""),
    "derived": (numbered(stack(110), 51, 160, ImageType=["DERIVED", "SECONDARY"]), ""),
    "two counts in one": (numbered(stack(110), 1, [160, 160]), ""),
    "every second": (numbered(stack(110), 1, 219, 2), "missing slices: 110 of the 219 images .* numbers 1 to 219"),
    "every second of two": (numbered(stack(110), 1, 220, 2), "!perhaps slices are missing: 110 of the 220"),
    "every second, no count": (numbered(stack(110), 1, None, 2), "!numbers 1, 3, ... 219, in steps of 2"),
    "every second, derived": (numbered(stack(110), 1, None, 2, ImageType=["DERIVED", "SECONDARY"]), ""),
    "numbers with a hole": (with_images(numbered(stack(110), 1, 160), i9={"InstanceNumber": 150}), "!110 of the 160"),
    "by spacing": (stack(110, SpacingBetweenSlices=0.5), "missing slices: they are 1 mm apart, .* is 0.5"),
    "spacing fits": (stack(110, SpacingBetweenSlices=-1), ""),
    "overlapping": (stack(110, SpacingBetweenSlices=2), ""),
    "empty space between": (stack(20, 6, SpacingBetweenSlices=1, SliceThickness=5), ""),
    "overlap as a negative number": (stack(110, 1, SpacingBetweenSlices=-0.5, SliceThickness=1.5), ""),
    "slices without space, every second": (stack(110, 2, SpacingBetweenSlices=1, SliceThickness=1), "they are 2 mm"),
    "reformatted": (stack(110, 3, SpacingBetweenSlices=1, ImageType=["DERIVED", "SECONDARY"]), ""),
    "no spacing": (stack(110, SpacingBetweenSlices=0), ""),
}
CUT["two acquisitions"][0].headers[5].AcquisitionNumber = 2


@pytest.mark.parametrize("kind", CUT)
def test_a_series_that_lacks_slices_by_its_numbers_is_a_fault_where_it_is_certain_and_else_noted(kind):
    series, expected = CUT[kind]
    noted = expected.startswith("!")
    assert re.search("^$" if noted or not expected else expected, series.fault() or series.doubt())
    why = judge(series).why
    assert re.search(expected[1:], why) if noted else "missing" not in why


def test_a_person_may_take_a_series_that_is_cut_off(tmp_path):
    series = CUT["its last slices lack"][0]
    verdict = judge(series)
    arguments = "P1", "P1_1", [verdict], [], str(tmp_path), "t1ce"
    assert "missing slices" in study_image(*arguments)["fault"]
    assert choose_asked([verdict], series.description) == [verdict]
    assert study_image(*arguments)["dicom"]["description"] == series.description


def with_frames(series):
    """The same slices in one enhanced file."""
    shared, groups, whole = Dataset(), [], header(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1")
    for keyword, group in (("ImageOrientationPatient", "PlaneOrientation"), ("PixelSpacing", "PixelMeasures")):
        setattr(shared, f"{group}Sequence", [Dataset()])
        setattr(shared[f"{group}Sequence"].value[0], keyword, series.headers[0][keyword].value)
    for image in series.headers:
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient, frame.PlanePositionSequence = image.ImagePositionPatient, [place]
        groups.append(frame)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(whole, keyword)
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], groups
    whole.NumberOfFrames = len(groups)
    return Series([whole], [Path("enhanced")])


def test_slices_of_an_enhanced_file_count_as_those_of_files():
    fine, thick, slab = with_frames(stack()), with_frames(stack(30, 5, **SAGITTAL)), with_frames(stack(8, 5))
    for better, other in ((fine, thick), (fine, stack(30, 5)), (stack(), thick)):
        (chosen,) = choose([judge(better), judge(other)])
        assert chosen.series is better and "is the finest, 1 mm" in chosen.why
    assert judge(slab).why.startswith("covers 35 mm") and [judge(one).axial for one in (fine, thick)] == [True, False]
    assert fine.fault() == "" and re.search(
        "1 missing slice.*10 mm", with_frames(with_images(stack(30, 5), i7=None)).fault()
    )
    assert fine.doubt() == ""
    fine = with_frames(stack())
    fine.headers[0].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 0.5
    assert "missing slices: they are 1 mm apart" in fine.doubt()
    lacking = with_frames(stack())
    del lacking.headers[0].PerFrameFunctionalGroupsSequence
    assert "without a valid ImageOrientationPatient, ImagePositionPatient, PixelSpacing" in lacking.fault()


def axes_of(seg):
    """Directions of row and column, and the distances along them, of a SEG."""
    (shared,) = seg.SharedFunctionalGroupsSequence
    row, column = np.reshape([*map(float, shared.PlaneOrientationSequence[0].ImageOrientationPatient)], (2, 3))
    down, right = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    return right * row, down * column


def values_at(image, points):
    """Voxels of a NIfTI image at points of the patient, in RAS mm."""
    index = np.rint(apply_affine(np.linalg.inv(image.affine), points)).astype(int)
    return np.asarray(image.dataobj)[tuple(index.T)]


def grid_points(shape, affine):
    return apply_affine(affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3))


def test_an_oblique_series_of_unsorted_files_is_the_same_volume_in_space_as_itk_reads(brain, tmp_path):
    files = write_dicom(tmp_path / "in", brain, AFFINE, RescaleSlope=2, RescaleIntercept=-10)
    write_series(sorted(files), tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.shape == brain.shape
    assert np.array_equal(values_at(image, grid_points(brain.shape, AFFINE)), 2 * brain.ravel() - 10)
    assert image.header["sform_code"] == image.header["qform_code"] == 1 and image.get_data_dtype() == np.int16
    itk = pytest.importorskip("SimpleITK")
    names = itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "in"))
    read = itk.ReadImage(names)
    steps = np.array(read.GetDirection()).reshape(3, 3) @ np.diag(read.GetSpacing())
    ras = np.eye(4)
    ras[:3] = np.diag([-1, -1, 1]) @ np.column_stack([steps, read.GetOrigin()])
    voxels = itk.GetArrayFromImage(read).transpose(2, 1, 0)
    assert np.array_equal(values_at(image, grid_points(voxels.shape, ras)), voxels.ravel())


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("rounded", [False, True])
def test_directions_that_are_nearly_perpendicular_become_so(rounded, enhanced, brain, tmp_path):
    files = write_dicom(tmp_path / "in", brain, AFFINE)
    for index, file in enumerate(files):
        image = pydicom.dcmread(file)
        axes = np.array(image.ImageOrientationPatient, float)
        axes = axes.round(3) if rounded else axes + np.array([0, 2e-4 * (index % 2), 0, 2e-4, 0, 0])
        image.ImageOrientationPatient = [*axes]
        image.save_as(file)
    if enhanced:
        as_enhanced(files, tmp_path / "IM0")
        files = [tmp_path / "IM0"]
    write_series(files, tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(values_at(image, grid_points(brain.shape, AFFINE)), brain.ravel())
    steps = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    np.testing.assert_allclose(steps.T @ steps, np.eye(3), atol=1e-6)
    classes = (np.asarray(image.dataobj) > 900).astype(np.uint8)
    write_dicom_seg(tmp_path / "seg.dcm", classes, files)
    assert pydicom.dcmread(tmp_path / "seg.dcm").pixel_array.sum() == classes.sum()


PADDED = [  # tags, and the stored values that are padding
    ({"PixelPaddingValue": 63536}, [63536]),
    ({"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 63536, "RescaleIntercept": -7}, [60000, 62000, 63536]),
    ({"PixelPaddingValue": 63536, "PixelPaddingRangeLimit": 63530}, [63530, 63533]),
    ({"PixelPaddingValue": -2000, "PixelRepresentation": 1}, [63536]),
    ({"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1, "PixelRepresentation": 1}, [63536, 65535]),
]


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("tags, values", PADDED)
def test_padding_is_background(tags, values, enhanced, brain, tmp_path):
    stored = np.where(brain > 0, brain, np.resize(values, brain.shape))
    files = write_dicom(tmp_path / "in", stored, AFFINE, **tags)
    if enhanced:
        as_enhanced(files, tmp_path / "IM0")
        files = [tmp_path / "IM0"]
    write_series(files, tmp_path / "a.nii.gz")
    expected = np.where(brain > 0, brain + tags.get("RescaleIntercept", 0), 0)
    found = values_at(nib.load(tmp_path / "a.nii.gz"), grid_points(brain.shape, AFFINE))
    assert np.array_equal(found, expected.ravel())


def test_a_dicom_seg_has_the_classes_at_their_place_and_names_its_source(brain, tmp_path):
    files = write_dicom(tmp_path / "in", brain, AFFINE)
    write_series(files, tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    classes = np.zeros(image.shape, np.uint8)
    classes[10:20, 12:25, 5:13], classes[14:17, 15:20, 7:9], classes[28, 29, 3] = 2, 1, 3
    write_dicom_seg(tmp_path / "seg.dcm", classes, files)
    seg, source = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(files[0])
    assert (seg.Modality, seg.StudyInstanceUID) == ("SEG", source.StudyInstanceUID)
    assert (seg.FrameOfReferenceUID, seg.PatientID) == (source.FrameOfReferenceUID, "H4711")
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID != seg.SeriesInstanceUID
    named = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in seg.SegmentSequence]
    assert [(code.CodeValue, code.CodingSchemeDesignator) for code in named] == [
        ("6574001", "SCT"), ("79654002", "SCT"), ("108369006", "SCT")
    ]  # fmt: skip
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Necrotic core", "Oedema", "Enhancing tumour"]
    found, along = np.zeros(image.shape, np.uint8), axes_of(seg)
    uids = {str(pydicom.dcmread(file).SOPInstanceUID): file for file in files}
    for frame, about in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence):
        row, column = np.nonzero(frame)
        origin = np.array(about.PlanePositionSequence[0].ImagePositionPatient, float)
        lps = origin + np.outer(column, along[0]) + np.outer(row, along[1])
        index = np.rint(apply_affine(np.linalg.inv(image.affine), lps * [-1, -1, 1])).astype(int)
        found[tuple(index.T)] = about.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        reference = about.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(pydicom.dcmread(uids[reference]).ImagePositionPatient, origin, atol=1e-3)
    assert np.array_equal(found, classes)


@pytest.mark.slow
def test_highdicom_reads_the_same_classes_also_where_there_is_no_tumour(brain, tmp_path):
    import highdicom

    files = write_dicom(tmp_path / "in", brain, AFFINE)
    write_series(files, tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    random = np.random.default_rng(2).integers(0, 4, image.shape).astype(np.uint8)
    for classes in (random, np.zeros_like(random)):
        write_dicom_seg(tmp_path / "seg.dcm", classes, files)
        volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
        affine = volume.get_affine("RAS")
        points = grid_points(volume.array.shape, affine)
        index = np.rint(apply_affine(np.linalg.inv(image.affine), points)).astype(int)
        assert np.array_equal(classes[tuple(index.T)], volume.array.ravel())
        assert classes.sum() == volume.array.sum()


@pytest.fixture(scope="module")
def exported(brain, tmp_path_factory):
    """Two patients as a PACS exports them: localizer, T1 without and with contrast, files without a suffix."""
    root, affine = tmp_path_factory.mktemp("exported"), np.diag([-5.0, -5, 10, 1])
    affine[:3, 3] = 80, 80, -80
    for patient in ("H1", "H2"):
        study = f"1.2.3.{patient[1]}"
        same = {
            "PatientID": patient,
            "StudyInstanceUID": study,
            "FrameOfReferenceUID": f"{study}.9",
            "names": "I{:04d}",
        }
        localizer = {"SeriesDescription": "loc", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
        write_dicom(root / patient / "S1", brain[:, :, 8:10], affine, SeriesNumber=1, **localizer, **same)
        write_dicom(root / patient / "S2", brain, affine, SeriesNumber=2, SeriesDescription="t1_mprage_tra", **same)
        write_dicom(root / patient / "S3", brain, affine, SeriesNumber=3, **same)
    (root / "README").write_text("exported")
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    return root


@pytest.fixture
def studies(exported, tmp_path):
    """A copy of the export that a test may spoil."""
    return Path(shutil.copytree(exported, tmp_path / "in"))


def work(studies, **options):
    return find_work(str(studies), output_dir=str(studies.parent / "out"), **options)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"series": "3", "datalist": "x.json"}, "series is '3', which is of DICOM"),
        ({"sequence": "flair"}, "student_sequence is 'flair', but only T1ce is found in DICOM"),
    ],
)
def test_options_that_do_not_go_with_dicom_are_named(options, said, studies):
    with pytest.raises(UserError, match=said):
        work(studies, **options)
    with pytest.raises(UserError, match="where the DICOM files are"):
        find_work(str(studies), output_dir=str(studies))


def test_options_of_dicom_where_there_is_none_are_named(cohort_source, tmp_path):
    data, out = str(cohort_source / "data"), str(tmp_path)
    with pytest.raises(UserError, match="series is '3', but dataset_dir .* holds no DICOM"):
        find_work(data, output_dir=out, series="3")
    with pytest.raises(UserError, match="dicom_seg is True, but dataset_dir holds no DICOM"):
        check_dicom(find_work(data, output_dir=out)["all"])
    check_dicom([{"case": "H1", "fault": "2 series fit equally well"}])  # all that is left of a share of studies
    check_dicom([])
    with pytest.raises(UserError, match="brain_mask is 'm.nii', but student_sequence has 2"):
        find_work(data, ["flair", "t2"], output_dir=out, brain_mask="m.nii")


def test_each_study_gives_the_image_of_its_t1ce_series_and_nothing_is_written_before_it_is_read(studies, caplog, brain):
    caplog.set_level("INFO")
    images = work(studies)
    assert [image["case"] for image in images["all"]] == ["H1_20240105", "H2_20240105"]
    about = images["all"][0]["dicom"]
    assert about["number"] == "3" and about["description"] == "t1_mprage_tra_KM" and "(km)" in about["why"]
    assert {path.split("/")[-2] for path in about["files"]} == {"S3"} and len(about["files"]) == brain.shape[2]
    for row in ("taken +3 +t1_mprage_tra_KM", "2 +t1_mprage_tra .*no contrast", "1 +loc .*localizer"):
        assert len(re.findall(row, caplog.text)) == 2, caplog.text
    assert not (studies.parent / "out").exists()
    checked = CheckedImages(images["left"], Compose([LoadImaged("image"), EnsureChannelFirstd("image")]))
    for entry in checked:
        assert "fault" not in entry and "dicom" not in entry
        assert sorted(np.unique(entry["image"])) == sorted(np.unique(brain))
    record_inference(str(studies.parent / "out"), images["all"], [], {})
    record = (studies.parent / "out" / "inference.json").read_text()
    assert json.loads(record)["cases"][0]["dicom"]["series"] == pydicom.dcmread(about["files"][0]).SeriesInstanceUID
    names = " ".join(str(path) for path in (studies.parent / "out").rglob("*"))
    assert "Doe" not in record + names and "1960" not in record + names


def test_series_names_the_series_of_each_study(studies):
    for wanted in ("2", "*TRA", work(studies, series="2")["all"][0]["dicom"]["series"]):
        images = work(studies, series=wanted)["all"]
        assert len(images) == (1 if "." in wanted else 2) and all(image["dicom"]["number"] == "2" for image in images)
    with pytest.raises(UserError, match=r"series is '9', which fits no MR series"):
        work(studies, series="9")
    images = work(studies, series="*mprage*")["all"]  # of several the better one, after contrast
    assert [image["dicom"]["number"] for image in images] == ["3", "3"]
    assert "contrast" in images[0]["dicom"]["why"]


def test_series_of_one_number_that_are_not_t1ce_are_named_as_such(studies, brain):
    for name in ("t2_tse", "dwi"):
        same = {"PatientID": "H1", "StudyInstanceUID": "1.2.3.1", "SeriesNumber": 7, "SeriesDescription": name}
        write_dicom(studies / "H1" / name, brain, np.diag([-5.0, -5, 10, 1]), **same)
    with pytest.raises(UserError, match=r"2 series are named so, and none is T1ce: 7 \((t2_tse|dwi)\), 7"):
        work(studies, series="7")


def test_a_dicomdir_beside_its_output_is_predicted_again(studies):
    """The output folder, which then holds NIfTI, is not read."""
    options = {"dataset_dir": str(studies / "DICOMDIR"), "output_dir": str(studies / "out")}
    first = find_work(**options)["all"]
    (studies / "out" / "images").mkdir(parents=True)
    (studies / "out" / "images" / "H1_20240105_t1ce.nii.gz").touch()
    assert find_work(**options)["all"] == first


def test_label_maps_of_dicom_go_on_in_a_folder_that_was_moved(studies):
    out = studies.parent / "out"
    record_inference(str(out), work(studies)["all"], [], {})
    (out / "H1_20240105_seg.nii.gz").touch()
    out.rename(moved := studies.parent / "moved")
    left = find_work(str(studies), output_dir=str(moved))["left"]
    assert [image["case"] for image in left] == ["H2_20240105"]


def test_series_that_fit_equally_well_are_named(studies, brain):
    same = {"PatientID": "H1", "StudyInstanceUID": "1.2.3.1", "SeriesNumber": 4, "SeriesDescription": "t1_fs_KM"}
    write_dicom(studies / "H1" / "S4", brain, np.diag([-5.0, -5, 10, 1]), **same)
    images = work(studies)["all"]
    assert images[0]["fault"] == "2 series fit equally well: 3 (t1_mprage_tra_KM), 4 (t1_fs_KM)"
    assert "dicom" in images[1] and "dicom" in work(studies, series="*_fs_*")["all"][0]


def test_a_label_map_of_a_study_that_is_unclear_now_stays(studies, brain):
    out = studies.parent / "out"
    record_inference(str(out), work(studies)["all"], [], {})
    made = [out / f"{case}_20240105_seg.nii.gz" for case in ("H1", "H2")]
    for path in made:
        path.touch()
    same = {"PatientID": "H1", "StudyInstanceUID": "1.2.3.1", "SeriesNumber": 4, "SeriesDescription": "t1_fs_KM"}
    write_dicom(studies / "H1" / "S4", brain, np.diag([-5.0, -5, 10, 1]), **same)
    images = work(studies)
    assert "fault" in images["all"][0] and images["left"] == []
    record_inference(str(out), images["all"], [], {}, overwrite=True)
    assert [path.exists() for path in made] == [True, True]
    cases = {case["case"]: case for case in json.loads((out / "inference.json").read_text())["cases"]}
    assert cases["H1_20240105"]["dicom"]["number"] == "3"


def test_a_choice_against_the_description_is_warned_of(studies, caplog):
    images = work(studies, series="2")["all"]
    assert "--series 2 takes 't1_mprage_tra', although no contrast" in caplog.text
    assert "although" in images[0]["dicom"]["why"]


def test_dicom_beside_nifti_is_named(studies, brain, caplog):
    nib.save(nib.Nifti1Image(brain.astype(np.float32), np.diag([-5.0, -5, 10, 1])), studies / "extra_t1ce.nii.gz")
    assert [image["case"] for image in work(studies)["all"]] == ["extra"]
    assert re.search(r"DICOM file\(s\) besides extra_t1ce\.nii\.gz: only NIfTI is read", caplog.text)


def test_a_study_without_a_clear_or_whole_series_does_not_stop_the_others(studies, brain):
    for file in sorted((studies / "H1" / "S3").iterdir())[3:5]:
        file.unlink()
    first, second = work(studies)["all"]
    assert re.search(r"series 3 .*missing slice", first["fault"]) and "dicom" in second
    entry = CheckedImages([first], Compose([LoadImaged("image")]))[0]
    assert entry["fault"] == first["fault"] and "--series" in entry["remedy"]
    for file in (studies / "H2" / "S3").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"(?s)t1_mprage_tra .*no contrast.*H1.*missing slice.*H2.*no series is T1ce"):
        work(studies)


def test_slices_of_one_uid_are_no_copies_but_a_fault_that_says_so(studies, brain, caplog):
    caplog.set_level("INFO")
    files = sorted((studies / "H1" / "S3").iterdir())
    for file in files:
        image = pydicom.dcmread(file)
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.9"
        image.save_as(file)
    shutil.copy(sorted((studies / "H2" / "S3").iterdir())[0], studies / "H2" / "S3" / "copy")
    first, second = work(studies)["all"]
    assert f"{brain.shape[2]} slices have 1 SOPInstanceUID(s)" in first["fault"] and "dicom" in second
    assert len(re.findall("a second copy of an image", caplog.text)) == 1


def test_a_series_of_two_acquisitions_is_a_fault(studies):
    for file in sorted((studies / "H1" / "S3").iterdir())[::2]:
        image = pydicom.dcmread(file)
        image.EchoTime = 90
        image.save_as(file)
    first, second = work(studies)["all"]
    assert "mixed slices: EchoTime 3 and 90: export" in f"{first['fault']}: {first['remedy']}" and "dicom" in second
    asked = work(studies, series="3")["all"]  # a person may know better
    assert all("dicom" in study for study in asked)


def test_every_second_slice_alone_is_a_fault_unless_it_is_asked_for(studies):
    for file in (studies / "H1" / "S3").iterdir():
        image = pydicom.dcmread(file)
        image.SpacingBetweenSlices = 5
        image.save_as(file)
    first, second = work(studies)["all"]
    assert "missing slices: they are 10 mm apart, SpacingBetweenSlices is 5" in first["fault"] and "dicom" in second
    assert "dicom" in work(studies, series="3")["all"][0]


def test_one_slice_alone_is_named_as_such(studies):
    (file, *_) = sorted((studies / "H1" / "S3").iterdir())
    with pytest.raises(UserError, match=rf"{file} is one slice: give the folder of the series"):
        find_work(str(file), output_dir=str(studies.parent / "out"))


SAME = {"StudyInstanceUID": "1.2.5", "SeriesInstanceUID": "1.2.5.1", "FrameOfReferenceUID": "1.2.5.2"}


@pytest.mark.parametrize("same", [SAME, SAME | {"SOPInstanceUID": "1.2.5.3"}])
def test_two_patients_with_one_study_uid_are_each_predicted_from_their_own_scan(same, brain, tmp_path):
    affine, root = np.diag([-5.0, -5, 10, 1]), tmp_path / "in"
    write_dicom(root / "a", brain, affine, PatientID="H1", SeriesDescription="t1_mprage", **AGENT, **same)
    write_dicom(root / "b", brain, affine, PatientID="H2", **same)  # its description says contrast: the better one
    images = work(root)["all"]
    found = {image["case"]: {Path(path).parent.name for path in image["dicom"]["files"]} for image in images}
    assert found == {"H1_20240105": {"a"}, "H2_20240105": {"b"}}


def test_studies_whose_names_and_uids_end_alike_have_names_of_their_own(brain, tmp_path):
    for patient in ("H/1", "H-1", "H 1"):
        write_dicom(
            tmp_path / "in" / f"{ord(patient[1])}", brain, np.diag([-5.0, -5, 10, 1]), PatientID=patient, **SAME
        )
    cases = [image["case"] for image in work(tmp_path / "in")["all"]]
    assert len(set(cases)) == 3 and all(case.startswith("H-1_20240105_125_") for case in cases)


def test_a_number_with_a_comma_is_a_fault_of_its_study_and_names_the_file(studies):
    (file, *_) = sorted((studies / "H1" / "S3").iterdir())
    content = file.read_bytes()
    assert b"5.0\\5.0" in content
    file.write_bytes(content.replace(b"5.0\\5.0", b"5,0\\5,0"))
    first, second = work(studies)["all"]
    assert f"without a valid PixelSpacing, such as {file}, so" in first["fault"] and "export" in first["remedy"]
    assert "dicom" in second


def test_an_inverted_series_is_a_fault_that_says_so(studies):
    for file in (studies / "H1" / "S3").iterdir():
        image = pydicom.dcmread(file)
        image.PhotometricInterpretation = "MONOCHROME1"
        image.save_as(file)
    first, second = work(studies)["all"]
    assert "PhotometricInterpretation is MONOCHROME1, expected MONOCHROME2" in first["fault"] and "dicom" in second
    with pytest.raises(ValueError, match="MONOCHROME1"):
        write_series(sorted((studies / "H1" / "S3").iterdir()), studies / "a.nii.gz")


def without_preamble(folder):
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[132:])


def bare(folder):
    """Without file meta too, as old archives have it."""
    for file in folder.iterdir():
        pydicom.dcmwrite(file, Dataset(pydicom.dcmread(file)), implicit_vr=True, little_endian=True)


def packed(folder):
    shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)


LOST = {without_preamble: r"preamble.*dcmconv.*I0000", bare: r"preamble.*I0000", packed: r"unpack it.*S3\.zip"}


@pytest.mark.parametrize("spoil", LOST)
@pytest.mark.parametrize("alone", [False, True])
def test_files_in_which_a_study_may_be_lost_are_warned_of(spoil, alone, studies, caplog):
    spoil(studies / "H1" / "S3")
    if alone:
        for folder in (studies / "H2", studies / "H1" / "S1", studies / "H1" / "S2"):
            shutil.rmtree(folder)
        (studies / "DICOMDIR").unlink()
        with pytest.raises(UserError):
            work(studies)
    else:
        assert "fault" in work(studies)["all"][0]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(re.search(LOST[spoil], text) for text in warned) and "README" not in " ".join(warned)


def emptied(file):
    file.write_bytes(b"")


def html(file):
    file.write_text("<html><body>504 Gateway Time-out</body></html>" + " " * 300)


def cut(file):
    file.write_bytes(file.read_bytes()[:200])


def zipped(file):
    file.with_name(f"{file.stem}.dcm.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()


@pytest.mark.parametrize("spoil", [emptied, html, cut, zipped])
@pytest.mark.parametrize("end", ["", ".dcm"])
def test_slices_at_the_ends_that_cannot_be_read_are_a_fault_of_their_study(spoil, end, studies):
    for file in (studies / "H1" / "S3").iterdir():
        file.rename(file.with_name(file.name + end))
    for file in sorted((studies / "H1" / "S3").iterdir())[:3]:
        spoil(file)
    (studies / "H1" / "S3" / "README").write_text("exported")
    (studies / "H2" / "S3" / "notes.txt").write_text("beside slices")
    emptied(studies / "H2" / "S2" / "I0000")  # of another series
    first, second = work(studies)["all"]
    assert re.search(r"series 3 .*3 file\(s\) beside its slices cannot be read, such as .*I0000", first["fault"])
    assert "fetch them again" in first["remedy"] and "dicom" in second


@pytest.mark.parametrize("end", ["", ".dcm", ".IMA", ".v2"])
@pytest.mark.parametrize("folders", [["H1"], ["H1", "H2"]])
def test_slices_that_were_not_fetched_stop_the_run_and_are_named(folders, end, studies):
    (studies / "notes.txt").symlink_to("/annex/notes.txt")
    assert len(work(studies)["all"]) == 2
    for file in [path for folder in folders for path in sorted((studies / folder).glob("S*/*"))]:
        file.unlink()
        file.with_name(file.name + end).symlink_to(f"/annex/objects/{file.name}")
    with pytest.raises(UserError, match=rf"I0000{end}: links to /annex/objects/I0000, which is not there .*: fetch it"):
        work(studies)


def test_an_earlier_output_among_the_studies_does_not_hide_them(studies, caplog):
    caplog.set_level("INFO")
    before = studies / "out_1"
    images = find_work(str(studies), output_dir=str(before))["all"]
    (before / "images").mkdir(parents=True)
    for image in images:
        made = [before / f"{image['case']}_{end}.nii.gz" for end in ("seg", "entropy")]
        for path in [Path(image["image"]), *made]:
            path.touch()
    record_inference(str(before), images, [], {}, overwrite=False)
    for path in made:
        path.touch()
    assert [image["case"] for image in work(studies)["all"]] == ["H1_20240105", "H2_20240105"]
    assert "is of an earlier prediction" in caplog.text and "out_1/images/H1_20240105_t1ce.nii.gz" in caplog.text
    (studies / "extra_t1ce.nii.gz").touch()
    assert "extra" in [image["case"] for image in work(studies)["all"]]


def test_a_study_of_another_modality_is_left_out_and_two_of_one_day_have_names_of_their_own(studies, brain, caplog):
    caplog.set_level("INFO")
    same = {"PatientID": "H1", "StudyInstanceUID": "1.2.4.77777777"}
    affine = np.diag([-5.0, -5, 10, 1])
    write_dicom(studies / "more" / "S1", brain, affine, SeriesNumber=1, **same)
    write_dicom(studies / "ct" / "S1", brain[:, :, :2], affine, Modality="CT", PatientID="H3")
    cases = [image["case"] for image in work(studies)["all"]]
    assert cases == ["H1_20240105_1231", "H1_20240105_77777777", "H2_20240105"]
    assert "Studies without MR, which are left out: 1 (CT)." in caplog.text


def test_a_study_keeps_its_name_when_another_one_of_that_day_arrives(studies, brain):
    out = studies.parent / "out"
    record_inference(str(out), work(studies)["all"], [], {})
    (out / "H1_20240105_seg.nii.gz").touch()
    more = {"PatientID": "H1", "StudyInstanceUID": "1.2.4.77777777"}
    write_dicom(studies / "more" / "S1", brain, np.diag([-5.0, -5, 10, 1]), **more)
    for _ in range(2):
        found = work(studies)
        names = {image["case"]: image["dicom"]["study"] for image in found["all"]}
        assert names == {"H1_20240105": "1.2.3.1", "H1_20240105_77777777": "1.2.4.77777777", "H2_20240105": "1.2.3.2"}
        assert sorted(image["case"] for image in found["left"]) == ["H1_20240105_77777777", "H2_20240105"]
        record_inference(str(out), found["all"], [], {})
    shutil.rmtree(studies / "H1")
    assert [image["case"] for image in work(studies)["all"]] == ["H1_20240105_77777777", "H2_20240105"]


def test_a_name_in_the_record_that_is_none_of_a_study_is_not_taken(studies):
    out = studies.parent / "out"
    record_inference(str(out), work(studies)["all"], [], {})
    record = json.loads((out / "inference.json").read_text())
    record["cases"][0]["case"] = "../elsewhere"
    (out / "inference.json").write_text(json.dumps(record))
    assert [image["case"] for image in work(studies)["all"]] == ["H1_20240105", "H2_20240105"]


def test_studies_of_one_patient_id_count_as_one_patient(studies, brain):
    affine, out = np.diag([-5.0, -5, 10, 1]), studies.parent / "out"
    for folder, tags in {"a": {}, "b": {"StudyDate": "21500601"}, "c": {"PatientID": None}}.items():
        write_dicom(studies / folder / "S1", brain, affine, **{"PatientID": "H1"} | tags)
    record_inference(str(out), work(studies)["all"], [], {})
    cases = json.loads((out / "inference.json").read_text())["cases"]
    patients = {case["case"]: case.get("patient") for case in cases}
    assert sorted(patients.values(), key=str) == ["H1", "H1", "H1", "H2", None] and patients["H1_21500601"] == "H1"
    assert count_patients(list(patients), named_patients(cases)) == 3


def test_a_study_whose_date_is_no_date_has_a_name_without_folders(studies, brain):
    write_dicom(studies / "odd" / "S1", brain, np.diag([-5.0, -5, 10, 1]), PatientID="H4", StudyDate="../2024/01/05")
    assert "H4_2024-01-05" in [image["case"] for image in work(studies)["all"]]


def test_the_same_folder_again_is_done_and_a_changed_series_is_named(studies):
    out = studies.parent / "out"
    record_inference(str(out), work(studies)["all"], [], {})
    (out / "H1_20240105_seg.nii.gz").touch()
    assert [image["case"] for image in work(studies)["left"]] == ["H2_20240105"]
    with pytest.raises(
        UserError, match=r"H1_20240105_seg\.nii\.gz was predicted from series 3 .*S3, not from series 2 .*S2"
    ):
        work(studies, series="2")


def test_a_full_disk_stops_the_prediction_and_is_no_fault_of_the_patient(studies, small_files):
    checked = CheckedImages(work(studies)["left"], Compose([LoadImaged("image")]))
    with small_files(1000), pytest.raises(UserError, match=r"H1_20240105_t1ce\.nii\.gz cannot be written"):
        checked[0]
    assert not list((studies.parent / "out").rglob("*.nii.gz"))


def test_without_the_extra_one_sentence_says_how_to_install_it(studies, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"holds DICOM, .* not installed: pip install pydicom highdicom"):
        work(studies)


COMPRESSED = ["RLELossless", "JPEGLSLossless", "JPEG2000Lossless", "JPEGLosslessSV1"]


@pytest.mark.slow
@pytest.mark.parametrize("syntax", COMPRESSED)
def test_compressed_images_as_archives_keep_them_are_read(syntax, brain, tmp_path):
    gdcm = pytest.importorskip("gdcm", reason="the extra dicom is not installed")
    kinds = {"RLELossless": "RLELossless", "JPEGLSLossless": "JPEGLSLossless", "JPEG2000Lossless": "JPEG2000Lossless",
             "JPEGLosslessSV1": "JPEGLosslessProcess14_1"}  # fmt: skip
    files = write_dicom(tmp_path / "in", brain, AFFINE)
    write_series(files, tmp_path / "a.nii.gz")
    for file in files:
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(file))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kinds[syntax])))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(file))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID == getattr(pydicom.uid, syntax)
    write_series(files, tmp_path / "b.nii.gz")
    plain, unpacked = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "b.nii.gz")
    assert np.array_equal(plain.affine, unpacked.affine) and np.array_equal(plain.get_fdata(), unpacked.get_fdata())


def as_enhanced(files, target):
    """One enhanced MR file with the frames of these files, in their order."""
    images = [pydicom.dcmread(file) for file in files]
    one, same = images[0], pydicom.dcmread(files[0])
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    one.NumberOfFrames, one.PixelData = len(images), b"".join(image.PixelData for image in images)
    shared, orientation, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = same.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = same.PixelSpacing, same.SliceThickness
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, 0, "US"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [values]
    frames = []
    for index, image in enumerate(images):
        frame, place, content = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient, content.DimensionIndexValues = image.ImagePositionPatient, [index + 1]
        frame.PlanePositionSequence, frame.FrameContentSequence = [place], [content]
        frames.append(frame)
    one.SharedFunctionalGroupsSequence, one.PerFrameFunctionalGroupsSequence = [shared], frames
    pointer, organisation = Dataset(), Dataset()
    organisation.DimensionOrganizationUID = pointer.DimensionOrganizationUID = pydicom.uid.generate_uid()
    pointer.DimensionIndexPointer, pointer.FunctionalGroupPointer = 0x00200032, 0x00209113
    one.DimensionOrganizationSequence, one.DimensionIndexSequence = [organisation], [pointer]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(one, keyword)
    one.save_as(target)


@pytest.mark.slow
def test_an_enhanced_file_is_the_same_volume_and_has_a_dicom_seg(brain, tmp_path):
    files = write_dicom(tmp_path / "in", brain, AFFINE)
    write_series(files, tmp_path / "a.nii.gz")
    (tmp_path / "enhanced").mkdir()
    as_enhanced(files, tmp_path / "enhanced" / "IM0")
    ((image,),) = [find_work(str(tmp_path / "enhanced"), output_dir=str(tmp_path / "out"))["all"]]
    write_series(image["dicom"]["files"], tmp_path / "b.nii.gz")
    plain, enhanced = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "b.nii.gz")
    points = grid_points(plain.shape, plain.affine)
    assert np.array_equal(values_at(plain, points), values_at(enhanced, points))
    classes = np.zeros(enhanced.shape, np.uint8)
    classes[10:20, 12:25, 5:13] = 3
    write_dicom_seg(tmp_path / "seg.dcm", classes, image["dicom"]["files"])
    assert pydicom.dcmread(tmp_path / "seg.dcm").pixel_array.sum() == (classes > 0).sum()


@pytest.mark.slow
def test_studies_with_the_skull_are_rejected_then_predicted_by_their_masks_and_reported(exported, tmp_path, command):
    torch.manual_seed(0)
    torch.save(ResUNet(1, 4, [4, 4, 8, 8], deep_supervision=1).state_dict(), tmp_path / "student.pt")
    studies = Path(shutil.copytree(exported, tmp_path / "in"))
    for file in (studies / "H2" / "S3").iterdir():
        image = pydicom.dcmread(file)
        pixels = image.pixel_array
        image.PixelData = np.where(pixels > 0, pixels, 20).astype(np.uint16).tobytes()
        image.save_as(file)
    out = tmp_path / "out"
    line = [
        "scripts", "predict", "--dataset_dir", studies, "--output_dir", out, "--ckpt_path", tmp_path / "student.pt",
        "--student_widths", "[4,4,8,8]", "--window_size", "[16,16,16]", "--dicom_seg", "True", "--mirror", "False",
    ]  # fmt: skip
    first = command(*line)
    assert first.returncode == 1 and "Traceback" not in first.stderr, first.stderr
    assert re.search(
        r"H2_20240105 .*voxels are not 0.*hd-bet.*--brain_mask .*images/H2_20240105_t1ce\.nii\.gz", first.stderr
    )
    assert {path.name for path in out.glob("*_seg.*")} == {"H1_20240105_seg.nii.gz", "H1_20240105_seg.dcm"}
    (tmp_path / "masks").mkdir()
    for path in (out / "images").iterdir():
        image = nib.load(path)
        mask = (np.asarray(image.dataobj) > 20).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "masks" / path.name.replace(".nii", "_bet.nii"))
    masked = ["--brain_mask", str(tmp_path / "masks" / "*_t1ce_bet.nii.gz")]
    again = command(*line, *masked)
    assert again.returncode == 1 and "was predicted without a brain mask" in again.stderr
    assert command(*line, *masked, "--overwrite", "True").returncode == 0
    for case in ("H1_20240105", "H2_20240105"):
        label = np.asarray(nib.load(out / f"{case}_seg.nii.gz").dataobj)
        assert pydicom.dcmread(out / f"{case}_seg.dcm").pixel_array.sum() == (label > 0).sum() > 0
    assert command("scripts", "report", "--run", out).returncode == 0
    assert "H2_20240105" in (out / "report.html").read_text()


LACKING = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
           "AccessionNumber", "SliceThickness"]  # fmt: skip


def test_an_anonymised_series_has_a_dicom_seg(brain, tmp_path, caplog):
    """Attributes that are absent or not valid are empty in the SEG."""
    files = write_dicom(tmp_path / "in", brain, AFFINE, **dict.fromkeys(LACKING))
    classes = np.zeros(brain.shape, np.uint8)
    classes[5:8, 5:8, 5:8] = 2
    write_dicom_seg(tmp_path / "seg.dcm", classes, files)
    assert not caplog.messages
    files = write_dicom(tmp_path / "odd", brain, AFFINE, PatientSex="W", PatientBirthDate="1960", StudyTime="10:15")
    for file in files:
        content = file.read_bytes()
        assert b"DS\x04\x009.0 " in content  # the thickness of slices
        file.write_bytes(content.replace(b"DS\x04\x009.0 ", b"DS\x04\x009,0 "))
    write_dicom_seg(tmp_path / "odd.dcm", classes, files)
    (message,) = caplog.messages
    assert message.startswith("odd.dcm: not valid") and message.endswith(
        "DICOM SEG: PatientBirthDate, PatientSex, SliceThickness, StudyTime."
    )
    files = write_dicom(tmp_path / "long", brain, AFFINE)
    with pydicom.config.disable_value_validation():
        for file in files:  # more digits than DICOM allows
            image = pydicom.dcmread(file)
            image.PixelSpacing = [f"{float(value):.16f}" for value in image.PixelSpacing]
            image.save_as(file)
    write_dicom_seg(tmp_path / "long.dcm", classes, files)
    assert pydicom.dcmread(tmp_path / "long.dcm").pixel_array.sum() == 27
    for name in ("seg.dcm", "odd.dcm"):
        seg = pydicom.dcmread(tmp_path / name)
        assert seg.PatientSex == "" and not seg.PatientBirthDate and seg.pixel_array.sum() == 27


def test_a_dicom_seg_has_patient_and_study_as_the_series_has_them_also_if_they_are_too_long(brain, tmp_path, caplog):
    tags = {"PatientID": f"H/{10**70}", "AccessionNumber": "ACC-2024-000123456", "StudyID": "BRAIN WITHOUT AND WITH"}
    files = write_dicom(tmp_path / "in", brain, AFFINE, **tags)
    write_dicom_seg(tmp_path / "seg.dcm", np.ones(brain.shape, np.uint8), files)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert {keyword: str(seg[keyword].value) for keyword in tags} == tags and not caplog.messages


NAMES = {  # the source's characters: the bytes of a patient's name, and the name
    "ISO_IR 100": ("Müller^Jürgen".encode("latin-1"), "Müller^Jürgen"),
    "ISO-IR 100": ("Müller^Jürgen".encode("latin-1"), "Müller^Jürgen"),
    "ISO_IR 192": ("Łukasz^Żak".encode(), "Łukasz^Żak"),
    "": (b"Doe^Jane", "Doe^Jane"),
    "\\ISO 2022 IR 149": (b"Hong^Gildong=\033$)C\373\363^\033$)C\321\316\324\327", "Hong^Gildong=洪^吉洞"),
    "ISO 2022 IR 149": (b"\033$)C\310\253^\033$)C\261\346\265\277", "홍^길동"),
    "\\ISO 2022 IR 87": (b"Yamada^Tarou=\033$B;3ED\033(B^\033$BB@O:\033(B", "Yamada^Tarou=山田^太郎"),
    "ISO 2022 IR 58": (b"Doe^Jane", "Doe^Jane"),
}


@pytest.mark.parametrize("characters", NAMES)
def test_a_dicom_seg_has_names_of_any_characters_as_the_series_has_them(characters, brain, tmp_path):
    stored, name = NAMES[characters]
    mark = f"N{'x' * (len(stored) - 1)}"
    files = write_dicom(tmp_path / "in", brain, AFFINE, PatientName=mark, ReferringPhysicianName=mark, StudyID="S")
    for file in files:
        image = pydicom.dcmread(file)
        image.add_new("SpecificCharacterSet", "CS", characters.split("\\"))
        image.save_as(file)
        content = file.read_bytes()
        assert content.count(mark.encode()) == 2
        file.write_bytes(content.replace(mark.encode(), stored))
    write_dicom_seg(tmp_path / "seg.dcm", np.ones(brain.shape, np.uint8), files)
    seg, source = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(files[0])
    assert seg.SpecificCharacterSet == "ISO_IR 192" and str(seg.PatientName) == str(source.PatientName) == name
    for keyword in ("ReferringPhysicianName", "PatientID", "StudyID", "PatientBirthDate", "PatientSex", "StudyDate"):
        assert str(seg[keyword].value) == str(source[keyword].value), keyword
