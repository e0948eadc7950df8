from __future__ import annotations

import subprocess
import sys

import pytest

import ferrule as package

COMMANDS = ["serve", "generate", "demo", "inspect", "plugins"]
HELP = """
import sys
from ferrule.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "litestar", "uvicorn", "huggingface_hub", "tokenizers"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)]
)
def test_help_imports_nothing_heavy(arguments):
    command = [sys.executable, "-c", HELP, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_version_is_the_packages(ferrule):
    assert ferrule("--version").stdout == f"ferrule {package.__version__}\n"


def test_help_lists_every_command(ferrule):
    text = ferrule("--help").stdout
    assert [command for command in COMMANDS if command not in text] == []


def test_unknown_command_is_a_usage_error(ferrule):
    result = ferrule("serv")
    assert result.exit_code == 2
    assert "serve" in result.stderr
