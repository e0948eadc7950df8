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


def report_of(modules, unused=()):
    return AdapterReport(
        location="mine",
        container="peft",
        base="base",
        trained_on="",
        rank=max(update.rank for update in modules.values()),
        num_modules=len(modules),
        num_tensors=3,
        num_bytes=2_500_000,
        touched=touched_modules(modules),
        added_tokens={},
        vocab_size=10,
        unused=dict.fromkeys(unused, "equal to the base's own weight"),
        notes=[],
    )


def test_the_summary_is_one_line():
    report = report_of({"model.layers.0.mlp.up_proj": low_rank(2, 1.5)}, unused=["x"])
    assert report.summary() == "rank 2, scale 1.5, 1 modules, 2.5 MB, 1 tensors unused"
    assert report.kinds == ["mlp.up_proj"]


def test_the_summary_tells_the_span_of_ranks_and_scales():
    modules = {
        "model.layers.0.self_attn.q_proj": low_rank(8, 2.0),
        "model.layers.1.self_attn.q_proj": low_rank(4, 0.5),
        "model.layers.1.mlp.up_proj": low_rank(16, 1.0),
        "lm_head": ModuleUpdate(full=torch.zeros(10, 4)),
    }
    report = report_of(modules)
    assert report.summary() == "ranks 4 to 16, scales 0.5 to 2, 4 modules, 2.5 MB"
    assert report.kinds == ["lm_head", "mlp.up_proj", "self_attn.q_proj"]


def test_the_summary_of_whole_matrices_has_no_rank():
    report = report_of({"lm_head": ModuleUpdate(full=torch.zeros(10, 4))})
    assert report.summary() == "no low-rank part, 1 modules, 2.5 MB"
