"""The software and the machine that produce a result."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "scipy", "nibabel")
BUNDLE = Path(__file__).resolve().parents[1]
LONGEST = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")  # which Python puts into the folder for temporary files
ROOM = f"a folder for temporary files (TMPDIR) whose path has at most {LONGEST} characters"


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loading_processes() -> int:
    """Number of processes that load patients for a training, at most 8.

    Processes that train together on one machine share its cores. Each leaves two cores of its share free.
    """
    if not sockets_fit():
        logger.warning(f"No loading processes, so loading takes longer: they need {ROOM}, not {tempfile.gettempdir()}.")
        return 0
    share = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # which torchrun sets
    return max(0, min(8, share - 2))


def sockets_fit() -> bool:
    """Whether loading processes can open their sockets, whose paths the system limits to 107 characters."""
    return len(tempfile.gettempdir()) <= LONGEST


def versions() -> dict[str, str]:
    """Versions of the bundle, Python and the packages that results depend on."""
    bundle = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["version"]
    found = {"bundle": bundle, "python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    for engine in ("openvino", "onnxruntime", "onnxruntime-gpu"):
        with suppress(PackageNotFoundError):
            found[engine] = version(engine)
    return found


def revision() -> str | None:
    """The commit of the bundle's git checkout, with "+" if files of the bundle differ from it; None outside of one."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=BUNDLE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "configs/train.yaml")  # else the checkout is another project's
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict[str, Any]:
    """System, processor, threads, GPUs and number of processes."""
    import ignite.distributed as idist  # here, because scoring needs neither and starts in less time
    import torch

    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.is_file()
        else []
    )
    return {
        "system": platform.platform(),
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "processes": idist.get_world_size(),
    }
