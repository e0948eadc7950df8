"""The compiled form of this folder: made once for a machine, then loaded from the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent
_SOURCES = ("attention.c", "layers.c", "product.c")
# Without -ffast-math: sums keep their order, and NaN stays NaN.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
_log = logging.getLogger(__name__)

_LONG, _POINTER = ctypes.c_long, ctypes.c_void_p


@cache
def host_library() -> ctypes.CDLL | None:
    """The library; None where there is no compiler, or no CPU that the source is for.

    It shares torch's threads: torch has loaded an OpenMP runtime of the same name before.
    """
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None or platform.machine() != "x86_64":
        return None
    try:
        file = library_file(os.environ, compiler)
        if not file.exists():
            compile_library(compiler, file)
        return _declared(ctypes.CDLL(str(file)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        _log.info("kernels for the CPU are not used: %s", error)
        return None


def library_file(environ: Mapping[str, str], compiler: str) -> Path:
    """Where the library of this source, compiler and CPU is kept.

    Args:
        environ: As for the other kernels' cache.
        compiler: Path of the compiler.

    Raises:
        RuntimeError: The user has no home directory.
    """
    given = environ.get("FERRULE_CACHE_DIR") or environ.get("XDG_CACHE_HOME")
    caches = Path(given) if given else Path.home() / ".cache"
    texts = [(_FOLDER / source).read_text() for source in ("host.h", *_SOURCES)]
    made_of = [*texts, *_FLAGS, compiler, _cpu()]
    name = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    return caches / "ferrule" / "kernels" / "host" / f"{name}.so"


def compile_library(compiler: str, file: Path) -> None:
    """Compiles into a file that appears when it is whole.

    Raises:
        OSError: It cannot be written.
        subprocess.SubprocessError: The compiler fails or takes a minute.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        sources = [str(_FOLDER / source) for source in _SOURCES]
        command = [compiler, *_FLAGS, "-o", str(made), *sources, "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        made.replace(file)


def _cpu() -> str:
    """What the compiler's -march=native looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({x for x in lines if x.startswith(("flags", "model", "vendor_id"))}))


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    library.ferrule_product.argtypes = [
        ctypes.c_int,
        _POINTER,
        *(_LONG,) * 3,
        _POINTER,
        _LONG,
        *(_POINTER,) * 2,
        ctypes.c_int,
        _POINTER,
    ]
    library.ferrule_rms_norm.argtypes = [
        *(_POINTER,) * 3,
        *(_LONG,) * 2,
        ctypes.c_float,
        *(_POINTER,) * 2,
    ]
    library.ferrule_rms_norm.restype = None
    library.ferrule_write_cache.argtypes = [
        *(_POINTER,) * 2,
        _LONG,
        *(_POINTER,) * 2,
        _LONG,
        _POINTER,
        *(_LONG,) * 3,
        *(_POINTER,) * 2,
    ]
    library.ferrule_write_cache.restype = None
    library.ferrule_attend.argtypes = [
        _POINTER,
        _LONG,
        *(_POINTER,) * 2,
        _LONG,
        *(_POINTER,) * 2,
        *(_LONG,) * 7,
        ctypes.c_float,
        *(_POINTER,) * 3,
    ]
    library.ferrule_silu_mul.argtypes = [_POINTER, _LONG, _LONG, _POINTER]
    library.ferrule_silu_mul.restype = None
    return library
