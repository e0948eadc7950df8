from __future__ import annotations

import torch

from ferrule.lora import ModuleUpdate
from ferrule.lora.report import AdapterReport, layer_number, touched_modules


def low_rank(rank, scale=1.0, **more):
    return ModuleUpdate(a=torch.zeros(rank, 4), b=torch.zeros(6, rank), scale=scale, **more)


def test_modules_are_grouped_by_kind_rank_scale_and_parts():
    touched = touched_modules(
        {
            "model.embed_tokens": ModuleUpdate(full=torch.zeros(10, 4)),
            "model.layers.0.mlp.up_proj": low_rank(2),
            "model.layers.2.mlp.up_proj": low_rank(2),
            "model.layers.1.mlp.up_proj": low_rank(3, magnitude=torch.zeros(6)),
            "lm_head": low_rank(2, bias=torch.zeros(6)),
        }
    )
    assert [(t.kind, t.count, t.layers, t.rank, t.parts) for t in touched] == [
        ("model.embed_tokens", 1, [], 0, ["full"]),
        ("mlp.up_proj", 2, [0, 2], 2, ["lora"]),
        ("mlp.up_proj", 1, [1], 3, ["dora"]),
        ("lm_head", 1, [], 2, ["lora", "bias"]),
    ]
    assert touched[1].num_bytes == 2 * (2 * 4 + 6 * 2) * 4


def test_a_layers_number_is_the_first_one():
    assert layer_number("model.layers.12.mlp.experts.3.up_proj") == 12
    assert layer_number("lm_head") is None


def test_the_summary_is_one_line():
    modules = {"model.layers.0.mlp.up_proj": low_rank(2)}
    report = AdapterReport(
        location="mine",
        container="peft",
        base="base",
        trained_on="",
        rank=2,
        num_modules=1,
        num_tensors=3,
        num_bytes=2_500_000,
        touched=touched_modules(modules),
        added_tokens={},
        vocab_size=10,
        unused={"x": "equal to the base's own weight"},
        notes=[],
    )
    assert report.summary() == "1 modules (mlp.up_proj), rank 2, 2.5 MB, 1 tensors unused"
