"""The documentation tells the truth: code compiles, commands parse, links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import tomllib

import pytest

from ferrule.checkpoint.encoding import ENCODINGS
from ferrule.quantization.formats import FORMATS

SHELL = {"console", "bash", "sh", "shell"}
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
INLINE = re.compile(r"`(?P<command>ferrule [^`]+)`")
INDENTED = re.compile(r"^ {4,}\$? ?(?P<command>ferrule .+)$", re.M)


def test_python_blocks_compile(blocks):
    for block in blocks:
        if block.language == "python":
            compile(block.text, str(block), "exec")


def test_data_blocks_are_valid(blocks):
    for block in blocks:
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)


def test_every_note_above_a_block_is_one_that_a_test_acts_on(blocks):
    known = {
        "",
        "a plugin",
        "run with a model at ./my-finetune",
        "run with a server at http://127.0.0.1:8000",
    }
    assert {block.note for block in blocks} <= known


def test_commands_are_ones_that_the_command_line_takes(
    root, pages, blocks, command_line, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = [(str(b), c) for b in blocks if b.language in SHELL for c in _commands(b.text)]
    for page, text in pages.items():
        # The page of the command line has usage lines, and the next test compares it whole.
        if page.name != "cli.md":
            commands = [*INLINE.findall(text), *INDENTED.findall(text)]
            found += [(str(page.relative_to(root)), command) for command in commands]
    assert len(found) > 20
    for where, command in found:
        _parse(command_line, where, command, tmp_path)


def _commands(text):
    """Every ``ferrule ...`` of a shell block, joined over continued lines."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|", line):
            words = part.strip().removeprefix("$ ")
            if words.startswith("ferrule "):
                yield words


def _parse(command_line, where, command, folder):
    _, *words = shlex.split(command, comments=True)
    words = [word for word in words if word != "..."]
    if not words or words[0] in ("COMMAND", "--version", "--help"):
        return
    # Files that a flag wants to exist do.
    for word in words:
        if word.endswith((".py", ".jinja")) or word == "FILE":
            (folder / word).parent.mkdir(parents=True, exist_ok=True)
            (folder / word).touch()
    name, *arguments = words
    assert name in command_line.commands, f"{where}: {command}"
    context = command_line.make_context("ferrule", [name], resilient_parsing=True)
    try:
        command_line.commands[name].make_context(name, arguments, parent=context)
    except Exception as error:
        pytest.fail(f"{where}: {command}\n{error}")


def test_the_page_of_the_command_line_is_the_generated_one(root):
    path = root / "docs" / "cli_reference.py"
    spec = importlib.util.spec_from_file_location("cli_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.cli_page(), "run: python docs/cli_reference.py"


def test_links_lead_to_files(root, pages):
    broken = [
        f"{page.relative_to(root)}: {match['target']}"
        for page, text in pages.items()
        for match in LINK.finditer(text)
        if not match["target"].startswith(("http://", "https://", "#"))
        if not (page.parent / match["target"].partition("#")[0]).exists()
    ]
    assert broken == []


def test_the_life_of_a_request_passes_through_every_room(pages, root):
    page = pages[root / "docs" / "design" / "request.md"]
    rooms = {target.split("core/ferrule/")[1].split("/")[0] for target in _source_links(page)}
    assert {"server", "frontend", "tokenizer", "engine", "runtime", "layers", "plan.py"} <= rooms


def _source_links(page):
    return [match["target"] for match in LINK.finditer(page) if "core/ferrule/" in match["target"]]


def test_the_page_of_modules_has_every_module(pages, root):
    tree = pages[root / "docs" / "design" / "modules.md"].partition("## Imports")[0]
    package = root / "core" / "ferrule"
    rooms = {f"{f.parent.name}/" for f in package.glob("*/__init__.py")}
    files = {f.name for f in package.glob("*.py")} - {"__main__.py"}
    listed = set(re.findall(r"^  (\S+) ", tree.partition("plugins/ferrule_plugins")[0], re.M))
    assert listed == rooms | files


def test_the_page_of_modules_has_the_contract_of_imports(blocks, pyproject, root):
    (contract,) = (
        each for each in pyproject["tool"]["importlinter"]["contracts"] if each["type"] == "layers"
    )
    layers = [re.sub(r" *\| *\(\w+\)", "", layer) for layer in contract["layers"]]
    page = root / "docs" / "design" / "modules.md"
    assert "\n".join(layers) in [block.text for block in blocks if block.page == page]


def test_the_guide_to_gguf_names_every_format_and_encoding(pages, root):
    words = set(re.findall(r"\w+", pages[root / "docs" / "guides" / "gguf.md"]))
    assert words >= FORMATS.keys() - {"F64"}
    assert words >= ENCODINGS.keys()
