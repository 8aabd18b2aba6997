"""What the Model Zoo asks of a bundle as ci/unit_tests/test_NAME.py, run in a checkout of it."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow

ROOT = "models/brats_t1ce_kd_segmentation"
sys.path.insert(0, ROOT)  # the bundle's own scripts
TINY = {
    "bundle_root": ROOT,
    "epochs": 1,
    "num_workers": 1,
    "spacing": None,
    "roi_size": [24, 24, 24],
    "window_size": [16, 16, 16],
    "student_widths": [4, 4, 8, 8],
    "teachers::flair::network::widths": [4, 4, 8, 8],
}


def make_patients(folder, count=6):
    """BraTS folders of noise in a cube of 96 mm, with background around it: all four sequences and a label."""
    random = np.random.default_rng(0)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    inside = np.pad(np.ones((18, 18, 18), np.int16), 3)
    for index in range(count):
        name = f"BraTS2021_{index:05d}"
        os.makedirs(os.path.join(folder, name))
        for suffix in ("t1", "t2", "t1ce", "flair"):
            image = inside * random.integers(1, 200, size=(24, 24, 24)).astype(np.int16)
            nib.save(nib.Nifti1Image(image, affine), os.path.join(folder, name, f"{name}_{suffix}.nii.gz"))
        label = (inside * random.choice([0, 1, 2, 4], size=(24, 24, 24))).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, affine), os.path.join(folder, name, f"{name}_seg.nii.gz"))


def make_datalist(folder, output):
    """The bundle's own command, run from the bundle as its scripts expect."""
    command = [
        sys.executable,
        "-m",
        "scripts",
        "datalist",
        "--dataset_dir",
        folder,
        "--output",
        output,
        "--folds",
        "3",
    ]
    subprocess.run(command, cwd=ROOT, check=True)


class TestBratsT1ceKdSegmentation(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.dataset_dir = os.path.join(self.folder, "data")
        make_patients(self.dataset_dir)
        datalist = os.path.join(self.folder, "datalist.json")
        make_datalist(self.dataset_dir, datalist)
        self.outputs = {"dataset_dir": self.dataset_dir, "output_dir": os.path.join(self.folder, "eval")}
        self.override = {**TINY, **self.outputs, "datalist": datalist}

    def tearDown(self):
        shutil.rmtree(self.folder)

    def check(self, config_file, workflow_type, override):
        workflow = ConfigWorkflow(
            workflow_type=workflow_type,
            config_file=config_file,
            logging_file=os.path.join(ROOT, "configs/logging.conf"),
            meta_file=os.path.join(ROOT, "configs/metadata.json"),
            **override,
        )
        workflow.initialize()
        self.assertFalse(workflow.check_properties())
        workflow.run()
        workflow.finalize()

    def test_train_eval_config(self):
        train = os.path.join(ROOT, "configs/train.yaml")
        self.check(train, "train", self.override)
        self.assertTrue(os.path.isfile(os.path.join(self.folder, "eval", "models", "model.pt")))
        self.check([train, os.path.join(ROOT, "configs/evaluate.yaml")], "train", self.override)
        self.assertTrue(os.path.isfile(os.path.join(self.folder, "eval", "metrics.csv")))

    def test_infer_config(self):
        override = {"bundle_root": ROOT, "window_size": [16, 16, 16], "spacing": None, **self.outputs}
        self.check(os.path.join(ROOT, "configs/inference.yaml"), "infer", override)
        written = [name for name in os.listdir(os.path.join(self.folder, "eval")) if name.endswith("_seg.nii.gz")]
        self.assertEqual(len(written), 6)


if __name__ == "__main__":
    unittest.main()
