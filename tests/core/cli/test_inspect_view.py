from __future__ import annotations

import msgspec
import pytest

from ferrule.cli.inspect_view import show
from ferrule.engine.options import EngineOptions
from ferrule.inspection import inspect_checkpoint


@pytest.fixture
def report(tiny_llama):
    return inspect_checkpoint(EngineOptions(model=str(tiny_llama), devices="cpu"))


@pytest.fixture
def shown(capsys):
    def lines(report, **changes):
        show(msgspec.structs.replace(report, **changes))
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return lines


def test_repeated_layers_are_one_line(report, shown):
    lines = shown(report)
    assert "mlp.up_proj.weight mlp.gate_up_proj 128 x 64 F32 0-1" in lines
    assert "model.embed_tokens.weight model.embed_tokens 272 x 64 F32" in lines
    assert sum("up_proj" in line for line in lines) == 2


def test_match_model_and_memory_are_told(report, shown):
    lines = shown(report)
    for begin in (
        "weight adapter huggingface (ferrule ",
        "architecture llama (ferrule ",
        "layers 2 of 64 channels",
        "attention 4 query and 2 key/value heads of 16 channels",
        "window none",
        "rope default, theta 10000, 16 channels of a head",
        "context 256 tokens",
        "head tied to the embedding",
        "biases none",
        "dtype float32 on cpu",
        "weights ",
        "KV cache 128 KiB for a sequence of 256 tokens, 512 B a token",
        "fits here a context of 256 tokens",
    ):
        assert any(line.startswith(begin) for line in lines), (begin, lines)


def test_layers_that_differ_are_told_apart(report, shown):
    first, second = report.layers
    lines = shown(report, layers=[msgspec.structs.replace(first, window=8), second])
    assert "window 8 tokens, in layers 0" in lines
    assert "window none, in layers 1" in lines


def test_settings_of_a_stretched_rope_are_told(report, shown):
    rope = {**report.ropes[0], "type": "yarn", "factor": 4.0, "freq_factors": (1.0, 2.0)}
    lines = shown(report, ropes=[rope])
    line = "rope yarn, theta 10000, 16 channels of a head, factor 4.0, freq_factors 2 of the file"
    assert line in lines


def test_stored_names_rows_and_what_is_not_taken_are_told(report, shown):
    tensors = [
        msgspec.structs.replace(each, stored=f"x.{each.name}", rows="reordered", module=None)
        for each in report.destinations[:1]
    ]
    lines = shown(report, destinations=tensors, ignored={"a.b": "mine: a.{n}"}, notes=("so",))
    name = tensors[0].name
    shape = " x ".join(map(str, tensors[0].shape))
    assert f"x.{name} {name} nothing {shape} F32 reordered" in lines
    assert "a.b mine: a.{n}" in lines
    assert "so" in lines


def test_a_model_that_does_not_fit_is_told(report, shown):
    memory = msgspec.structs.replace(report.memory, context_that_fits=0)
    assert any(line.startswith("fits here nothing") for line in shown(report, memory=memory))
