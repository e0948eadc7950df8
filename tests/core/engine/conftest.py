from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _import_beside(name: str) -> None:
    # pytest's importlib mode puts no test directory on sys.path, and the worker script that the
    # client tests start imports the same file as a plain module.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_import_beside("fake_runner")
_import_beside("fake_store")
