"""Distributions with plugins, as pip would leave them in a site-packages directory."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest

GOOD = """
    from ferrule import WeightAdapter, hookimpl

    @hookimpl
    def weight_adapters():
        return [WeightAdapter(name={name!r}, matches=lambda checkpoint: False, names={{}})]
"""


@pytest.fixture
def good():
    """Source of a plugin that offers a weight adapter of some name."""
    return lambda name="mine": dedent(GOOD).format(name=name)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution of one module, for this test only."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(distribution, source, version="1.2", entry_point="it"):
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(dedent(source))
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[ferrule]\n{entry_point} = {module}\n")

    yield make
    for name in set(sys.modules) - before:
        if name.startswith(("ferrule_test_", "ferrule_plugin_file_")):
            del sys.modules[name]
