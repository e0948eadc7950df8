from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["ferrule.frontend", "ferrule.server"])
def test_no_module_of_the_package_brings_in_torch(package):
    script = (
        "import importlib, pkgutil, sys\n"
        f"package = importlib.import_module({package!r})\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        f"    importlib.import_module({package!r} + '.' + module.name)\n"
        "print(len(sys.modules), 'torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split()[1:] == ["False", "False"]
