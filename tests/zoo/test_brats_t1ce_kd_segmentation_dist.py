"""What the Model Zoo asks of a bundle as ci/unit_tests/test_NAME_dist.py: training in several processes."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import torch
from monai.bundle import ConfigParser
from test_brats_t1ce_kd_segmentation import ROOT, TINY, make_datalist, make_patients


class TestBratsT1ceKdSegmentationMGPU(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        make_patients(os.path.join(self.folder, "data"))
        self.datalist = os.path.join(self.folder, "datalist.json")
        make_datalist(os.path.join(self.folder, "data"), self.datalist)

    def tearDown(self):
        shutil.rmtree(self.folder)

    def test_train_mgpu_config(self):
        files = [os.path.join(ROOT, "configs", name) for name in ("train.yaml", "multi_gpu_train.yaml")]
        output_dir = os.path.join(self.folder, "eval")
        parser = ConfigParser()
        parser.read_config(files)
        outputs = {"dataset_dir": os.path.join(self.folder, "data"), "output_dir": output_dir}
        parser.update({**TINY, **outputs, "datalist": self.datalist})
        merged = os.path.join(self.folder, "train_override.json")
        ConfigParser.export_config_file(parser.config, merged, indent=2)
        processes = torch.cuda.device_count() or 2  # gloo on a CPU
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += ["-m", "monai.bundle", "run", "--config_file", merged]
        command += ["--logging_file", os.path.join(ROOT, "configs/logging.conf")]
        command += ["--meta_file", os.path.join(ROOT, "configs/metadata.json")]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT})
        self.assertTrue(os.path.isfile(os.path.join(output_dir, "models", "model.pt")))


if __name__ == "__main__":
    unittest.main()
