from __future__ import annotations

from pathlib import Path

import pytest

from ferrule.errors import RequestError
from ferrule.server.lora_updates import LoraUpdates


@pytest.fixture
def folders(tmp_path):
    """A root with an adapter in it, and one outside."""
    for name in ("allowed/a", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter_model.safetensors").touch()
    return tmp_path / "allowed", tmp_path / "outside"


def refused(updates, location):
    with pytest.raises(RequestError) as error:
        updates.allowed(str(location))
    assert error.value.param == "lora_path"
    return str(error.value)


def test_paths_below_a_root_are_given_in_full(folders, monkeypatch):
    root, _ = folders
    updates = LoraUpdates(roots=(root,))
    monkeypatch.chdir(root.parent)
    assert (
        updates.allowed("allowed/a") == updates.allowed(f"{root}/../allowed/a") == str(root / "a")
    )


def test_nothing_leads_out_of_a_root(folders):
    root, outside = folders
    updates = LoraUpdates(roots=(root,))
    (root / "link").symlink_to(outside)
    (root / "b").mkdir()
    (root / "b" / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    (root.parent / "allowed-too").mkdir()
    for path in (outside, root / ".." / "outside", root / "link", root / "b"):
        assert "may not be loaded" in refused(updates, path)
    assert "may not be loaded" in refused(updates, root.parent / "allowed-too")


def test_a_link_within_the_roots_is_followed(folders):
    root, outside = folders
    (root / "link").symlink_to(outside)
    assert LoraUpdates(roots=(root, outside)).allowed(str(root / "link")) == str(outside)


def test_repositories_are_those_of_allowed_organisations(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    updates = LoraUpdates(organisations=("acme",))
    assert updates.allowed("acme/tuned@v2") == "acme/tuned@v2"
    assert updates.allowed("acme/tuned/lora.gguf") == "acme/tuned/lora.gguf"
    assert "may not be loaded" in refused(updates, "other/tuned")
    assert "--lora-hub-org" in refused(updates, "acme-too/tuned")
    # What exists here is here, whatever it looks like.
    Path("acme/tuned").mkdir(parents=True)
    assert "may not be loaded" in refused(updates, "acme/tuned")


def test_what_is_nowhere_is_said_so(tmp_path):
    assert "nowhere" in refused(LoraUpdates(roots=(tmp_path,)), tmp_path / "nowhere")
