from __future__ import annotations

import json

import pytest

BROKEN = "import nothing_of_this_name\n"
ADAPTER = """
from ferrule import WeightAdapter, hookimpl

@hookimpl
def weight_adapters():
    yield WeightAdapter(name="mine", matches=lambda checkpoint: False, names={"a": "b"})
    yield WeightAdapter(name="peel", kind="wrapper", matches=lambda checkpoint: False, names={})
"""


@pytest.fixture
def write(tmp_path):
    def file(text):
        path = tmp_path / "plugin_file.py"
        path.write_text(text)
        return path

    return file


def test_the_built_in_plugins_are_listed_with_their_distribution(ferrule):
    from importlib.metadata import version

    result = ferrule("plugins", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["errors"] == []
    offers = {each["entry_point"]: each for each in report["plugins"]}
    for name in ("llama", "mistral", "qwen2"):
        assert offers[name] == {
            "distribution": "ferrule",
            "version": version("ferrule"),
            "entry_point": name,
            "architectures": [name],
            "weight_adapters": [],
            "wrappers": [],
        }
    assert "torch-compile" in offers["wrappers"]["wrappers"]


def test_people_get_a_table(ferrule):
    lines = ferrule("plugins").stdout.splitlines()
    assert lines[0].split() == ["distribution", "version", "entry", "point", "offers"]
    assert any("llama" in line and "architectures: llama" in line for line in lines)


def test_a_plugin_file_is_listed_with_what_it_offers(ferrule, write):
    path = write(ADAPTER)
    report = json.loads(ferrule("plugins", "--json", "--plugin", path).stdout)
    (mine,) = [each for each in report["plugins"] if each["entry_point"] == "plugin_file"]
    assert mine["distribution"] == f"file {path}"
    assert (mine["weight_adapters"], mine["wrappers"]) == (["mine"], ["peel"])


@pytest.mark.parametrize("as_json", [True, False])
def test_a_broken_plugin_is_told_and_hides_no_other(ferrule, write, as_json):
    path = write(BROKEN)
    result = ferrule("plugins", "--plugin", path, *(["--json"] if as_json else []))
    assert result.exit_code == 1
    assert "architectures" in result.stdout
    if as_json:
        (error,) = json.loads(result.stdout)["errors"]
        said = error["message"]
    else:
        said = result.stderr
        assert said.startswith("error: ")
    assert str(path) in said
    assert "nothing_of_this_name" in said
