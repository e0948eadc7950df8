from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import msgspec
import pytest
import torch

import ferrule
from ferrule.cli.kernel_artefact import LABEL, MadeFor, made_here, pack, unpack
from ferrule.errors import OptionError

HERE = MadeFor(ferrule="0.1.0", python="3.12", torch="2.11.0", triton="3.6.0", gpu="NVIDIA H100")


def folders_in(root):
    return {"triton": root / "triton", "inductor": root / "inductor"}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def contents(root):
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_text() for path in files}


@pytest.fixture
def artefact(tmp_path):
    made = folders_in(tmp_path / "made")
    write(made["triton"] / "KEY" / "norm.cubin", "machine code")
    write(made["inductor"] / "ab" / "graph.py", "a graph")
    file = tmp_path / "kernels.tar.gz"
    pack(made, HERE, file)
    return file


def handmade(file, *members, label=HERE):
    """An archive that ``pack`` would not write; members are names or whole infos."""
    with tarfile.open(file, "w:gz") as archive:
        text = msgspec.json.encode(label)
        info = tarfile.TarInfo(LABEL)
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
        for member in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
                member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
    return file


def test_what_was_packed_is_unpacked_elsewhere(artefact, tmp_path):
    unpack(artefact, folders_in(tmp_path / "other"), HERE)
    assert contents(tmp_path / "other") == {
        "triton/KEY/norm.cubin": "machine code",
        "inductor/ab/graph.py": "a graph",
    }


def test_folders_that_the_user_has_set_apart_are_filled(artefact, tmp_path):
    unpack(artefact, {"triton": tmp_path / "mine", "inductor": tmp_path / "b" / "c"}, HERE)
    assert contents(tmp_path / "mine") == {"KEY/norm.cubin": "machine code"}
    assert contents(tmp_path / "b") == {"c/ab/graph.py": "a graph"}


def test_kernels_that_are_there_already_stay(artefact, tmp_path):
    other = tmp_path / "other"
    write(other / "triton" / "KEY" / "norm.cubin", "the same")
    write(other / "triton" / "MINE" / "gate.cubin", "mine")
    unpack(artefact, folders_in(other), HERE)
    assert contents(other / "triton") == {
        "KEY/norm.cubin": "machine code",
        "MINE/gate.cubin": "mine",
    }


def test_triton_finds_a_kernel_where_it_was_unpacked(tmp_path, monkeypatch):
    """Its lists of a kernel's files hold full paths; the folder of the first machine is gone."""
    cache = pytest.importorskip("triton.runtime.cache")
    made, other = folders_in(tmp_path / "made"), folders_in(tmp_path / "other")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(made["triton"]))
    first = cache.FileCacheManager("KEY")
    names = ("norm.json", "norm.cubin")
    first.put_group("norm.json", {name: first.put(name.encode(), name) for name in names})
    pack(made, HERE, tmp_path / "kernels.tar.gz")
    made["triton"].rename(tmp_path / "gone")
    unpack(tmp_path / "kernels.tar.gz", other, HERE)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(other["triton"]))
    found = cache.FileCacheManager("KEY").get_group("norm.json")
    assert found == {name: str(other["triton"] / "KEY" / name) for name in names}
    assert Path(found["norm.cubin"]).read_text() == "norm.cubin"


def test_an_artefact_begins_with_what_it_is_for_and_names_no_user(artefact):
    with tarfile.open(artefact) as archive:
        first, *others = archive.getmembers()
        assert json.load(archive.extractfile(first)) == msgspec.to_builtins(HERE)
    assert first.name == LABEL
    assert {(each.uid, each.uname, each.gname) for each in others} == {(0, "", "")}


def test_an_empty_cache_makes_an_artefact_too(tmp_path):
    pack(folders_in(tmp_path / "none"), HERE, tmp_path / "kernels.tar.gz")
    unpack(tmp_path / "kernels.tar.gz", folders_in(tmp_path / "other"), HERE)
    assert contents(tmp_path / "other") == {}


def test_the_label_of_this_machine():
    assert made_here("cpu") == MadeFor(
        ferrule=ferrule.__version__,
        python=made_here("cpu").python,
        torch=torch.__version__,
        triton=made_here("cpu").triton,
        gpu="none",
    )


def test_other_versions_and_gpus_are_refused_with_both_sides(artefact, tmp_path):
    here = msgspec.structs.replace(HERE, torch="2.13.0", gpu="NVIDIA A100")
    with pytest.raises(OptionError) as raised:
        unpack(artefact, folders_in(tmp_path / "other"), here)
    assert raised.value.message.splitlines() == [
        f"--from {artefact} does not fit this machine:",
        "  torch: 2.11.0 in the file, 2.13.0 here",
        "  gpu: NVIDIA H100 in the file, NVIDIA A100 here",
    ]
    assert "--out" in raised.value.hint
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["../evil", "triton/../../evil", "other/evil", "evil", "triton"])
def test_files_outside_the_folders_are_refused_before_any_is_unpacked(tmp_path, name):
    file = handmade(tmp_path / "kernels.tar.gz", "triton/KEY/good", name)
    root = tmp_path / "a" / "b"
    with pytest.raises(OptionError, match="is no file of kernels"):
        unpack(file, folders_in(root), HERE)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("triton/KEY/link")
    info.type, info.linkname = kind, "/etc/passwd"
    file = handmade(tmp_path / "kernels.tar.gz", info)
    with pytest.raises(OptionError, match="'triton/KEY/link'; nothing was unpacked"):
        unpack(file, folders_in(tmp_path / "other"), HERE)
    assert not (tmp_path / "other").exists()


def test_an_absolute_path_is_refused(tmp_path):
    file = handmade(tmp_path / "kernels.tar.gz", str(tmp_path / "evil"))
    with pytest.raises(OptionError, match="is no file of kernels"):
        unpack(file, folders_in(tmp_path / "other"), HERE)
    assert not (tmp_path / "evil").exists()


def not_gzip(file):
    file.write_text("text")


def another_archive(file):
    with tarfile.open(file, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("triton"))


def no_members(file):
    tarfile.open(file, "w:gz").close()


def cut_off(file):
    handmade(file, *(f"triton/{os.urandom(50).hex()}" for _ in range(50)))
    file.write_bytes(file.read_bytes()[:-500])


def another_label(file):
    handmade(file, label={"ferrule": 1})


def a_broken_list(file):
    handmade(file, "triton/KEY/__grp__norm.json")


@pytest.mark.parametrize(
    "write", [not_gzip, another_archive, no_members, cut_off, another_label, a_broken_list]
)
def test_what_is_no_artefact_is_refused(tmp_path, write):
    file = tmp_path / "kernels.tar.gz"
    write(file)
    with pytest.raises(OptionError, match=f"--from {file} is no file of kernels: .") as raised:
        unpack(file, folders_in(tmp_path / "other"), HERE)
    assert "ferrule warm-cache MODEL --out" in raised.value.hint
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(OptionError, match="No such file"):
        unpack(tmp_path / "none", folders_in(tmp_path), HERE)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "kernels").mkdir()
    with pytest.raises(OptionError, match="cannot be written: Is a directory"):
        pack(folders_in(tmp_path / "none"), HERE, tmp_path / "kernels")
    assert [each.name for each in tmp_path.iterdir()] == ["kernels"]
