from __future__ import annotations

from pathlib import Path

import pytest

from ferrule.cli.kernel_cache import cache_environment, cache_folders, cached_bytes, cached_files
from ferrule.errors import OptionError


@pytest.mark.parametrize(
    ("environ", "kernels"),
    [
        ({"FERRULE_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, "/a/ferrule/kernels"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/ferrule/kernels"),
        ({"FERRULE_CACHE_DIR": "", "XDG_CACHE_HOME": "/b"}, "/b/ferrule/kernels"),
        ({}, "/home/me/.cache/ferrule/kernels"),
    ],
)
def test_both_compilers_have_a_folder_in_one_of_ours(monkeypatch, environ, kernels):
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folders(environ) == {
        "triton": Path(kernels, "triton"),
        "inductor": Path(kernels, "inductor"),
    }


def test_what_the_user_has_set_stays():
    environ = {"XDG_CACHE_HOME": "/b", "TRITON_CACHE_DIR": "/mine"}
    assert cache_folders(environ) == {
        "triton": Path("/mine"),
        "inductor": Path("/b/ferrule/kernels/inductor"),
    }
    assert cache_environment(environ)["TRITON_CACHE_DIR"] == "/mine"


def test_the_engine_is_told_by_the_compilers_own_variables():
    assert cache_environment({"FERRULE_CACHE_DIR": "/a"}) == {
        "TRITON_CACHE_DIR": "/a/ferrule/kernels/triton",
        "TORCHINDUCTOR_CACHE_DIR": "/a/ferrule/kernels/inductor",
    }


def test_a_relative_folder_is_one_of_where_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = cache_folders({"FERRULE_CACHE_DIR": "here"})
    assert folders["triton"] == tmp_path / "here" / "ferrule" / "kernels" / "triton"


def test_without_a_home_the_engine_is_told_nothing(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(OptionError, match="no home directory") as raised:
        cache_folders({})
    assert "FERRULE_CACHE_DIR" in raised.value.hint
    assert cache_environment({}) == {}


def test_only_finished_files_count(tmp_path):
    folder = tmp_path / "tmp.parent" / "triton"
    (folder / "key" / "tmp.pid_1_2").mkdir(parents=True)
    (folder / "key" / "tmp.pid_1_2" / "half").write_text("1234")
    (folder / "key" / "whole").write_text("123")
    (folder / "link").symlink_to("key/whole")
    assert list(cached_files(folder)) == [folder / "key" / "whole"]
    assert cached_bytes({"triton": folder, "inductor": tmp_path / "none"}) == 3
