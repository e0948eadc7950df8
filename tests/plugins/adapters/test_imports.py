from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["gguf", "huggingface", "wrappers"])
def test_weight_adapters_import_no_torch(module):
    code = f"import sys, ferrule_plugins.adapters.{module}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == "False\n"
