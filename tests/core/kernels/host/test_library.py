"""The compiled library: made once, and done without where it cannot be made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from ferrule.kernels.host import library

COMPILER = shutil.which(os.environ.get("CC") or "cc")
needs_compiler = pytest.mark.skipif(library.host_library() is None, reason="no compiler")


@needs_compiler
def test_it_is_compiled_into_the_users_cache_once(tmp_path):
    file = library.library_file({"FERRULE_CACHE_DIR": str(tmp_path)}, COMPILER)
    assert file.is_relative_to(tmp_path / "ferrule" / "kernels" / "host")
    library.compile_library(COMPILER, file)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@needs_compiler
def test_a_compiler_that_fails_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        library.compile_library(shutil.which("false"), tmp_path / "made" / "x.so")
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize(
    "changes", [{"CC": "no-such-compiler"}, {"CC": "false"}, {"FERRULE_CACHE_DIR": "/proc/none"}]
)
def test_without_it_torch_computes(tmp_path, changes):
    program = (
        "import torch; from ferrule.quantization.formats import FORMATS;"
        "from ferrule.layers.norm import RMSNorm; norm = RMSNorm(8, eps=1e-5).bfloat16();"
        "norm.weight.data.fill_(1); print(norm(torch.ones(1, 8).bfloat16())[0, 0].item());"
        "cpu = torch.device('cpu');"
        "storage = FORMATS['Q8_0'].allocate(4, 32, dtype=torch.bfloat16, device=cpu);"
        "print(type(storage).__name__)"
    )
    environ = {**os.environ, "FERRULE_CACHE_DIR": str(tmp_path), **changes}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1.0", "DenseStorage"]
