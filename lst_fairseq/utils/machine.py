"""What a result was made on: processors, GPUs, and versions of packages."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "fairseq-fixed", "fairseq", "sacrebleu", "lst-fairseq")


def machine() -> dict[str, Any]:
    """What this runs on: scores do not depend on it, times do."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cpus = {"cpus": len(os.sched_getaffinity(0)), "processor": processor()}
    return {**cpus, "gpus": gpus, "platform": platform.platform()}


def processor() -> str:
    """The CPU's name as Linux knows it; elsewhere what Python knows, which may be the architecture alone."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def on_cpus(found: Mapping[str, Any]) -> str:
    """``2 CPUs (AMD EPYC)``, of what :func:`machine` found, or an earlier version of it, which had no names."""
    named = f" ({found['processor']})" if found.get("processor") else ""
    return f"{found['cpus']} CPU{'s' if found['cpus'] != 1 else ''}{named}"


def versions() -> dict[str, str]:
    """Version of Python and of each of PACKAGES that is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
