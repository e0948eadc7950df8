from __future__ import annotations

import asyncio

import pytest

from ferrule.errors import LoadError, RequestError, TokenizerError
from ferrule.plan import LoraInfo
from ferrule.server import loras as loras_module
from ferrule.server.errors import StatusError
from ferrule.server.lora_updates import LoraUpdates
from ferrule.server.loras import ServedLoras


@pytest.fixture
def folders(tmp_path):
    for name in ("a", "b", "broken"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def loras(model, engine, folders, monkeypatch):
    monkeypatch.setattr(loras_module, "_LET_GO_SECONDS", 0.01)
    engine.lora_errors[str(folders / "broken")] = LoadError("it is broken", hint="Mend it.")
    return ServedLoras(model, engine, LoraUpdates(roots=(folders,)))


async def load(loras, name, path, *, is_inplace=False):
    return await loras.load(name, str(path), is_inplace=is_inplace)


async def test_the_log_tells_what_a_loaded_adapter_touches(loras, folders, caplog):
    caplog.set_level("INFO", "ferrule")
    await load(loras, "x", folders / "a")
    assert "adapter x: rank 8, scale 2 in q_proj, v_proj" in caplog.messages


async def test_a_loaded_adapter_is_a_model_of_its_own(loras, folders):
    info = await load(loras, "x", folders / "a")
    assert info.content == "a"
    served = loras.models["x"]
    assert (served.lora, served.root, served.parent) == ("a", str(folders / "a"), "fake")
    assert served.names == ("x",)


async def test_the_same_again_is_well_and_another_is_not(loras, folders):
    await load(loras, "x", folders / "a")
    assert await load(loras, "x", folders / "a") is None
    with pytest.raises(StatusError, match="already exists with a different path") as error:
        await load(loras, "x", folders / "b")
    assert (error.value.status, error.value.code) == (409, "load_name_exists")
    with pytest.raises(StatusError, match="the model itself"):
        await load(loras, "org/fake", folders / "a")


async def test_in_place_the_old_one_goes_after_a_while(loras, folders, engine):
    await load(loras, "x", folders / "a")
    await load(loras, "x", folders / "b", is_inplace=True)
    assert loras.models["x"].lora == "b"
    assert engine.unloaded == []
    await asyncio.sleep(0.05)
    assert engine.unloaded == ["a"]


async def test_what_has_another_name_stays(loras, folders, engine):
    await load(loras, "x", folders / "a")
    await load(loras, "y", folders / "a")
    await loras.unload("x")
    await asyncio.sleep(0.05)
    assert engine.unloaded == []
    await loras.unload("y")
    await load(loras, "z", folders / "a")
    await asyncio.sleep(0.05)
    assert engine.unloaded == [], "it has a name again"
    await loras.unload("z")
    await asyncio.sleep(0.05)
    assert engine.unloaded == ["a"]


async def test_a_broken_one_changes_nothing(loras, folders):
    await load(loras, "x", folders / "a")
    with pytest.raises(RequestError, match="it is broken") as error:
        await load(loras, "x", folders / "broken", is_inplace=True)
    assert (error.value.param, error.value.hint) == ("lora_path", "Mend it.")
    assert loras.models["x"].lora == "a"


async def test_unknown_names_cannot_be_unloaded(loras):
    with pytest.raises(StatusError, match="'x' not found") as error:
        await loras.unload("x")
    assert error.value.status == 404


async def test_updates_are_off_unless_asked_for(model, engine):
    fixed = ServedLoras(model, engine)
    for change in (fixed.load("x", "a", is_inplace=False), fixed.unload("x")):
        with pytest.raises(StatusError) as error:
            await change
        assert error.value.status == 501


def test_adapters_of_the_start_are_adopted_with_their_templates(loras, tmp_path):
    template = tmp_path / "chat_template.jinja"
    template.write_text("{% broken")
    info = LoraInfo(content="c", location="here")
    loras.adopt({"x": info})
    assert loras.models["x"].root == "here"
    assert issubclass(TokenizerError, Exception)
