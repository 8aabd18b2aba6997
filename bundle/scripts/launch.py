"""``python -m scripts.launch [--lean] MODULE ...``: ``python -m MODULE ...``, which Ctrl-C ends without a traceback.

With ``--lean`` it leaves out packages that a prediction does not need. MONAI and Ignite import whatever is installed,
which takes longer than the prediction of a patient: 2.5 of 4.7 seconds where mlflow and nnU-Net are installed.
"""

from __future__ import annotations

import runpy
import sys
from types import ModuleType

from scripts.errors import print_sentence

UNUSED = ("mlflow", "pandas", "matplotlib", "sklearn")  # MONAI takes each as not installed


class ZeroRedundancyOptimizer:
    """What Ignite asks of torch.distributed.optim: a class of which no object here is one."""


def leave_out_unused() -> None:
    """Let imports of packages that a prediction does not need fail, or find next to nothing."""
    sys.modules |= dict.fromkeys(UNUSED)  # type: ignore[arg-type]  # None makes their import an ImportError
    optim = ModuleType("torch.distributed.optim")
    vars(optim)["ZeroRedundancyOptimizer"] = ZeroRedundancyOptimizer
    sys.modules[optim.__name__] = optim


def main() -> None:
    """Run the module that the command line names, with the words after it."""
    sys.excepthook = print_sentence  # for Ctrl-C while packages are imported
    del sys.argv[0]
    if sys.argv[0] == "--lean":
        del sys.argv[0]
        leave_out_unused()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
