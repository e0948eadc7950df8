"""The repository as data: its sources, its pages and the code in them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from ferrule.cli.main import app

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "core" / "ferrule", ROOT / "plugins" / "ferrule_plugins")
FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)")
NOTE = re.compile(r"<!-- (?P<note>.*?) -->")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of code; ``note`` is the comment in the line above it."""

    page: Path
    line: int
    language: str
    note: str
    text: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def tracked():
    """Every file that is or would be committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def sources():
    """Python files of both packages."""
    return [file for package in PACKAGES for file in sorted(package.rglob("*.py"))]


@pytest.fixture(scope="session")
def pages():
    """Everything written for people, with its text."""
    files = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("contrib/*/*.md"))
    return {file: file.read_text() for file in sorted(files)}


@pytest.fixture(scope="session")
def blocks(pages):
    return [block for page, text in pages.items() for block in _blocks(page, text)]


def _blocks(page: Path, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    start = None
    for number, line in enumerate(lines):
        if start is None:
            if start := FENCE.match(line):
                begin = number + 1
        elif line.strip() == start["fence"]:
            above = NOTE.match(lines[begin - 2].strip()) if begin > 1 else None
            yield Block(
                page=page,
                line=begin,
                language=start["language"],
                note=above["note"] if above else "",
                text="\n".join(each.removeprefix(start["indent"]) for each in lines[begin:number]),
            )
            start = None
    assert start is None, f"{page}: a fence is not closed"


@pytest.fixture(scope="session")
def command_line():
    """The command ``ferrule`` with its subcommands."""
    return typer.main.get_command(app)


@pytest.fixture
def demo_cache(smollm2, tmp_path, monkeypatch):
    """A user's cache that holds the demo's model already."""
    folder = tmp_path / "cache" / "ferrule"
    folder.mkdir(parents=True)
    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").symlink_to(smollm2 / "smollm2-135m.gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
