from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from ferrule.cli.lora_flags import LoraOptions, lora_flags, named_paths, spread
from ferrule.engine.options import EngineOptions
from ferrule.errors import OptionError
from ferrule.server.lora_updates import LoraUpdates


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--lora-paths a=A b=B", "--lora-paths a=A --lora-paths b=B"),
        ("--lora-paths a=A --port 1 b=B", "--lora-paths a=A --port 1 b=B"),
        ("--lora-paths a=A MODEL", "--lora-paths a=A MODEL"),
        ("--lora-paths=a=A b=B", "--lora-paths=a=A --lora-paths b=B"),
        ("--lora-paths a=A --lora-paths b=B", "--lora-paths a=A --lora-paths b=B"),
        ("--lora-paths DIR b=B", "--lora-paths DIR --lora-paths b=B"),
        ("MODEL x=y", "MODEL x=y"),
    ],
)
def test_several_adapters_may_follow_one_flag(given, expected):
    assert spread(given.split()) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("finance=./f", [("finance", "./f")]),
        ("finance=./f,legal=org/repo@v1", [("finance", "./f"), ("legal", "org/repo@v1")]),
        ("a=x,y,b=z", [("a", "x,y"), ("b", "z")]),
        ("dir/my-adapter/", [("my-adapter", "dir/my-adapter/")]),
        ("dir/lora.gguf", [("lora", "dir/lora.gguf")]),
        ("dir=1/a", [("dir", "1/a")]),
    ],
)
def test_names_and_paths(text, expected):
    assert named_paths(text) == expected


@pytest.mark.parametrize("text", ["", "a=", "=B"])
def test_an_empty_name_or_path_is_refused(text):
    with pytest.raises(OptionError, match="expected NAME=PATH"):
        named_paths(text)


def test_adapters_are_enabled_by_naming_them():
    assert not lora_flags().is_enabled
    assert lora_flags(lora_paths=["a=A"]).is_enabled
    assert lora_flags(enable_lora=True).is_enabled
    assert lora_flags(enable_lora_updates=True).updates == LoraUpdates()


def test_contradictions_are_refused():
    with pytest.raises(OptionError, match="--no-enable-lora"):
        lora_flags(enable_lora=False, lora_paths=["a=A"])
    with pytest.raises(OptionError, match="the name a to more than one"):
        lora_flags(lora_paths=["a=A", "a=B"])
    with pytest.raises(OptionError) as error:
        lora_flags(lora_roots=[Path()])
    assert "--enable-lora-updates" in error.value.hint


def test_engine_options_have_them_all():
    options = LoraOptions(
        is_enabled=True, paths=(("a", "A"),), max_rank=8, max_on_device=2, max_on_host=3
    ).added_to(EngineOptions(model="m"))
    assert options == EngineOptions(
        model="m",
        enable_lora=True,
        lora_paths=(("a", "A"),),
        max_lora_rank=8,
        max_loras=2,
        max_cpu_loras=3,
    )
    assert len(inspect.signature(lora_flags).parameters) == 8
