"""Starts the engine process for a command."""

from __future__ import annotations

import sys

from ferrule.cli.kernel_cache import cache_environment
from ferrule.engine.launch import EngineLaunch

# -P: a torch.py in the directory that the user stands in, such as an untrusted checkpoint's, must
# not be imported in the place of the library.
_COMMAND = (sys.executable, "-P", "-m", "ferrule.worker")
# Linux's malloc then asks for huge pages. Weights on the host are read by 20 GB/s instead of 13:
# a step of one sequence of SmolLM2-135M spends 14 ms in products instead of 18.
_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def launch_engine(devices: str) -> EngineLaunch:
    """An engine process, which imports its libraries while the caller goes on.

    Args:
        devices: Where it is to run; a GPU is made ready meanwhile.
    """
    return EngineLaunch((*_COMMAND, devices), {**_ENVIRONMENT, **cache_environment()})
