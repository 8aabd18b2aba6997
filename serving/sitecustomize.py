"""Lets torchvision with CUDA in it be imported beside a torch without, which `make label` may meet on a CPU.

MONAI Label uses torchvision.utils alone, but the import stops at compiled operators that cannot be loaded there.
Declaring their names is enough. With a torch that has CUDA this does nothing. Python runs this file at its start if the
folder is on PYTHONPATH; MONAI Label's own child processes inherit that.
"""

import importlib.abc
import sys

OPERATORS = ("nms", "qnms")


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Declares the operators just before the first import of torchvision; finds no module itself."""

    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and DeclareOperators.library is None:
            import torch

            if torch.version.cuda is None:
                DeclareOperators.library = torch.library.Library("torchvision", "FRAGMENT")
                for operator in OPERATORS:
                    DeclareOperators.library.define(f"{operator}(Tensor a, Tensor b, float c) -> Tensor")


sys.meta_path.insert(0, DeclareOperators())
