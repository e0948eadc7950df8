from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["gguf", "huggingface", "wrappers"])
def test_weight_adapters_import_no_torch(module):
    code = (
        f"import sys, ferrule_plugins.adapters.{module}; "
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
