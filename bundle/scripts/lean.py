"""``python -m scripts.lean MODULE ...``: ``python -m MODULE ...`` without packages that a prediction does not need.

MONAI and Ignite import whatever is installed, which takes longer than the prediction of a patient: 2.5 of 4.7 seconds
where mlflow and nnU-Net are installed.
"""

from __future__ import annotations

import runpy
import sys
from types import ModuleType

from scripts.errors import print_sentence

UNUSED = ("mlflow", "pandas", "matplotlib", "sklearn")  # MONAI takes each as not installed


class ZeroRedundancyOptimizer:
    """What Ignite asks of torch.distributed.optim: a class of which no object here is one."""


def main() -> None:
    """Run the module that the command line names, with the words after it."""
    sys.modules |= dict.fromkeys(UNUSED)  # type: ignore[arg-type]  # None makes their import an ImportError
    optim = ModuleType("torch.distributed.optim")
    vars(optim)["ZeroRedundancyOptimizer"] = ZeroRedundancyOptimizer
    sys.modules[optim.__name__] = optim
    sys.excepthook = print_sentence  # for Ctrl-C while packages are imported
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
