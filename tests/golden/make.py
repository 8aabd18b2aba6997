"""Makes small.npz from the large golden file, after checking that the code reproduces the latter.

PYTHONPATH=bundle:tests python tests/golden/make.py LARGE_FILE

It holds the authors' logits at half resolution with the losses that they computed of them (``authors/...``), and a cut
of the large file: half of every network's channels, an eighth of the volume, with all figures computed again.
"""

import sys
from pathlib import Path

import numpy as np

from scripts.method.fusion import FusionLevel
from scripts.method.resunet import ResUNet
from test_golden import TEACHERS, compute, read

SIZE = 16  # voxels a side
LAYERS = ("stem", "encoder1", "encoder2", "bridge")


def cut(golden):
    """The weights of networks of half the widths: the first channels of every tensor."""
    classes = golden["weights/student/head.weight"].shape[0]
    widths = [golden[f"weights/student/{layer}.conv1.weight"].shape[0] // 2 for layer in LAYERS]
    unet = ResUNet(1, classes, widths, deep_supervision=2).state_dict()
    level = FusionLevel(dict.fromkeys(TEACHERS, widths[1]), classes).state_dict()
    fusion = {name.replace("attention.", "attention_").replace("project.", "project_"): v for name, v in level.items()}
    small = {}
    for key, value in golden.items():
        if key.startswith("weights/"):
            _, network, name = key.split("/")
            shape = (fusion if network == "fusion" else unet)[name].shape
            small[key] = value[tuple(map(slice, shape))]
    return small


def main(source):
    golden = read(source)
    found = compute(golden)
    for key, value in found.items():
        np.testing.assert_allclose(value, golden[key], rtol=1e-4, atol=1e-4 * np.abs(golden[key]).max(), err_msg=key)
    small = cut(golden)
    start = (32 - SIZE) // 2
    box = (..., *[slice(start, start + SIZE)] * 3)
    small |= {key: value[box] for key, value in golden.items() if key.startswith("input/")}
    small |= compute(small)
    kept = ["output/student_half_logits", "output/fusion_logits", "input/label"]
    kept += [key for key in golden if key.startswith("loss/") and key.endswith(("/student_half", "/fusion"))]
    kept += [key for key in golden if key.endswith("fusion_to_student_half")]
    small |= {f"authors/{key}": golden[key] for key in kept}
    target = Path(__file__).with_name("small.npz")
    np.savez_compressed(target, **small)
    print(f"{target}: {len(small)} entries, {target.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main(sys.argv[1])
