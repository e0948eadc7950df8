from __future__ import annotations

import pytest

from ferrule.errors import MatchError
from ferrule.matching import match


def test_c6_an_unknown_architecture_lists_the_installed_and_the_nearest(
    make_checkpoint, make_plugins, toy, make_architecture, dialect, tensors
):
    stored = make_checkpoint(tensors, {"model_type": "toyy", "architectures": ["ToyyForCausalLM"]})
    with pytest.raises(MatchError) as error:
        match(stored, make_plugins([dialect(), toy], [make_architecture("zebra")]))
    text = str(error.value)
    assert "No installed architecture fits the/model" in text
    assert "model_type 'toyy', architectures ToyyForCausalLM" in text
    assert "toy (dist-0 1.0), zebra (dist-1 1.0)" in text
    assert "The nearest is 'toy'." in text
    assert "--architecture" in text


def test_c6_a_config_without_model_type_finds_the_nearest_by_class(
    make_checkpoint, make_plugins, toy, dialect, tensors
):
    stored = make_checkpoint(tensors, {"architectures": ["ToysForCausalLM"]})
    with pytest.raises(MatchError, match="nearest is 'toy'"):
        match(stored, make_plugins([dialect(), toy]))


@pytest.mark.parametrize("config", [{}, {"architectures": None, "model_type": None}])
def test_c6_an_empty_config_is_said_to_be_one(
    make_checkpoint, make_plugins, toy, config, dialect, tensors
):
    with pytest.raises(MatchError, match="neither model_type nor architectures"):
        match(make_checkpoint(tensors, config), make_plugins([dialect(), toy]))


def test_unknown_names_show_samples_and_the_way_out(
    make_checkpoint, make_plugins, toy, dialect, tensors
):
    names = {
        "decoder.0.qkv": (1,),
        "decoder.1.qkv": (1,),
        "decoder.0.norm": (1,),
        "head": (1,),
        "x": (1,),
    }
    with pytest.raises(MatchError) as error:
        match(make_checkpoint(names, {"model_type": "toy"}), make_plugins([dialect(), toy]))
    text = str(error.value)
    assert "5 tensors such as decoder.0.qkv, decoder.0.norm, head." in text
    assert "Installed weight adapters: plain (dist-0 1.0)." in text
    assert "a weight adapter plugin of ten lines fixes this: docs/tutorial/first-adapter" in text


def test_an_unknown_gguf_architecture_is_named(make_checkpoint, make_plugins, toy, dialect):
    stored = make_checkpoint({"x": (1,)}, {"general.architecture": "toys"}, kind="gguf")
    with pytest.raises(MatchError, match=r"general\.architecture 'toys'") as error:
        match(stored, make_plugins([dialect(), toy]))
    assert "The nearest is 'toy'." in str(error.value)


def test_nothing_installed_is_said(checkpoint, make_plugins):
    with pytest.raises(MatchError, match="Installed weight adapters: none"):
        match(checkpoint, make_plugins())
