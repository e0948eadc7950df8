"""What pip gets: versions, entry points and the set-up that the README promises."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from importlib.metadata import version

import ferrule


def test_the_version_is_the_same_everywhere(root, pyproject):
    newest = re.search(r"^## (?P<version>\d\S*)", (root / "CHANGELOG.md").read_text(), re.M)
    found = {pyproject["project"]["version"], ferrule.__version__, newest["version"]}
    assert found == {version("ferrule")}


def test_every_entry_point_can_be_imported(pyproject):
    for module in pyproject["project"]["entry-points"]["ferrule"].values():
        importlib.import_module(module)
    module, _, function = pyproject["project"]["scripts"]["ferrule"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_module_with_a_hook_is_an_entry_point(root, pyproject):
    package = root / "plugins"
    with_hook = {
        file.relative_to(package).with_suffix("").as_posix().replace("/", ".")
        for file in package.rglob("*.py")
        if _has_hook(file)
    }
    listed = pyproject["project"]["entry-points"]["ferrule"].values()
    assert {name.removesuffix(".__init__") for name in with_hook} == set(listed)


def _has_hook(file):
    return any(
        ast.unparse(decorator) in ("hookimpl", "ferrule.hookimpl")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
    )


def test_contributed_distributions_are_found_through_the_same_door(root):
    folders = sorted((root / "contrib").glob("ferrule-*"))
    assert folders
    for folder in folders:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        assert project["name"] == folder.name
        for module in project["entry-points"]["ferrule"].values():
            assert _has_hook(folder / f"{module}.py")


def test_the_documentation_is_built_with_the_versions_it_was_written_for(pyproject):
    assert pyproject["project"]["optional-dependencies"]["docs"] == [
        "mkdocs==1.6.1",
        "mkdocs-material==9.8.1",
        "mkdocstrings-python==2.0.11",
    ]


def test_the_ci_runs_the_commands_that_the_readme_names(root):
    script = (root / ".ci" / "run").read_text()
    assert "pip install --quiet -e '.[dev]'" in script
    for command in ("pytest --cov", "ruff check", "basedpyright", "lint-imports", "mkdocs build"):
        assert command in script
