import pytest

from ferrule.checkpoint.location import HubFile, HubRepo, find_location, find_weight_path, near_path
from ferrule.errors import CheckpointError

BASE = HubRepo(name="org/base", revision="v1")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_what_exists_is_here(here):
    (here / "org" / "name@v1").mkdir(parents=True)
    assert find_location("org/name@v1").samefile(here / "org" / "name@v1")
    assert find_location("~/org").samefile(here / "org")


@pytest.mark.parametrize(
    ("location", "repo"),
    [
        ("org/name", HubRepo(name="org/name")),
        ("HuggingFaceTB/SmolLM2-135M", HubRepo(name="HuggingFaceTB/SmolLM2-135M")),
        ("org/name@v1.0", HubRepo(name="org/name", revision="v1.0")),
        ("org/name@refs/pr/3", HubRepo(name="org/name", revision="refs/pr/3")),
        ("org/name:Q4_K_M", HubRepo(name="org/name", variant="Q4_K_M")),
        ("org/name@v1:q8_0", HubRepo(name="org/name", revision="v1", variant="q8_0")),
    ],
)
def test_org_and_name_are_a_repository(location, repo):
    assert find_location(location) == repo


@pytest.mark.parametrize(
    "location",
    [
        *(
            "./model",
            "../model",
            "/nowhere/model",
            "~/model",
            "~no-such-user/x",
            "a/model.gguf",
            "model",
        ),
        *("a/b/c", "org/name@", "org/na me", "C:\\models\\llama", "x" * 5000, "a\0b"),
    ],
)
def test_everything_else_is_a_path_that_must_exist(location):
    with pytest.raises(CheckpointError, match="No such file or directory"):
        find_location(location)


def test_paths_spelled_alike_are_suggested(here):
    (here / "models").mkdir()
    (here / "models" / "llama-merged").touch()
    (here / "models" / "unrelated").touch()
    with pytest.raises(CheckpointError) as caught:
        find_location("./models/lama-merged")
    assert caught.value.hint == "Did you mean models/llama-merged?"


def test_missing_parent_directory_is_named():
    with pytest.raises(CheckpointError) as caught:
        find_location("./modls/llama")
    assert caught.value.hint == "There is no directory modls either."


def test_nothing_alike_is_no_suggestion():
    assert near_path("./zzz") == ""


def test_weight_path_that_exists_is_here(here):
    (here / "mine.gguf").touch()
    assert find_weight_path("mine.gguf", BASE).samefile(here / "mine.gguf")


def test_weight_path_may_be_a_file_of_the_local_model(here):
    (here / "base").mkdir()
    (here / "base" / "q4.gguf").touch()
    found = find_weight_path("q4.gguf", here / "base")
    assert found.samefile(here / "base" / "q4.gguf")


@pytest.mark.parametrize(
    ("weight_path", "file"),
    [
        ("q4.gguf", HubFile(repo=BASE, name="q4.gguf")),
        ("gguf/q4.gguf", HubFile(repo=BASE, name="gguf/q4.gguf")),
        ("org/other/q4.gguf", HubFile(repo=HubRepo(name="org/other"), name="q4.gguf")),
        (
            "org/other@v2/gguf/q4.gguf",
            HubFile(repo=HubRepo(name="org/other", revision="v2"), name="gguf/q4.gguf"),
        ),
    ],
)
def test_weight_path_that_does_not_exist_is_on_the_hub(weight_path, file):
    assert find_weight_path(weight_path, BASE) == file


def test_weight_path_on_the_hub_goes_with_a_local_model(here):
    expected = HubFile(repo=HubRepo(name="org/other"), name="q4.gguf")
    assert find_weight_path("org/other/q4.gguf", here) == expected


@pytest.mark.parametrize("weight_path", ["./a/b/mine.gguf", "/a/b/c.gguf", "mine.gguf", "b/c.gguf"])
def test_weight_path_that_is_nowhere_is_an_error(here, weight_path):
    with pytest.raises(CheckpointError, match="No such file or directory"):
        find_weight_path(weight_path, here)


def test_weight_path_with_an_impossible_repository_is_an_error():
    with pytest.raises(CheckpointError, match="No such file or directory"):
        find_weight_path("org/na me/q4.gguf", BASE)
