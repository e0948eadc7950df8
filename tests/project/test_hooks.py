"""Every hook is documented with its exact signature, and its documented plugin works."""

from __future__ import annotations

import inspect

import pytest

from ferrule import hookspecs
from ferrule.plugins import discover

HOOKS = {
    name: function
    for name, function in vars(hookspecs).items()
    if inspect.isfunction(function) and hasattr(function, "ferrule_spec")
}


def test_there_are_hooks():
    assert {"architectures", "weight_adapters"} <= HOOKS.keys()


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_a_heading_with_its_exact_signature(root, name):
    page = (root / "docs" / "reference" / "hooks.md").read_text()
    signature = str(inspect.signature(HOOKS[name])).replace("'", "")
    assert f"\n## `{name}{signature}`\n" in page


@pytest.mark.parametrize("name", HOOKS)
def test_a_hooks_documented_plugin_is_complete(blocks, tmp_path, name):
    """The block under the hook's heading, saved as a file, offers something and no error."""
    plugins = [b for b in blocks if b.note == "a plugin" and f"def {name}()" in b.text]
    assert plugins
    for block in plugins:
        file = tmp_path / "documented_plugin.py"
        file.write_text(block.text + "\n")
        discovery = discover([file])
        assert discovery.errors == ()
        assert list(getattr(discovery.plugins[-1], name))


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_tested(root, name):
    """Some test implements it, and some test asks a discovered plugin for what it offers."""
    text = "\n".join(file.read_text() for file in (root / "tests" / "core").rglob("*.py"))
    assert f"def {name}" in text
    assert f".{name}" in text
