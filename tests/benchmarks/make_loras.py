"""Adapters of random small weights for a checkpoint, to measure what serving them costs.

    python tests/benchmarks/make_loras.py CHECKPOINT OUT [--count 8] [--rank 16] [--modules all]

writes OUT/a0, OUT/a1, ... in PEFT's layout. ``--modules attention`` (the default) is q, k, v and o.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


def shapes(config: dict) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of a layer's modules."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    kv = config.get("num_key_value_heads", heads) * head_dim
    return {
        "self_attn.q_proj": (heads * head_dim, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, heads * head_dim),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def write_adapter(
    folder: Path, base: Path, *, rank: int, modules: tuple[str, ...], seed: int
) -> None:
    """One adapter whose products are some hundredths of the weights' own."""
    config = json.loads((base / "config.json").read_text())
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (num_out, num_in) in shapes(config).items():
            if name.partition(".")[2] not in modules:
                continue
            path = f"base_model.model.model.layers.{layer}.{name}"
            a = torch.randn(rank, num_in, generator=generator) * num_in**-0.5
            b = torch.randn(num_out, rank, generator=generator) * 0.02
            tensors[f"{path}.lora_A.weight"] = a.bfloat16()
            tensors[f"{path}.lora_B.weight"] = b.bfloat16()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(modules),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--modules", choices=["attention", "all"], default="attention")
    asked = parser.parse_args()
    modules = ATTENTION if asked.modules == "attention" else ATTENTION + MLP
    for index in range(asked.count):
        write_adapter(
            asked.out / f"a{index}",
            asked.checkpoint.resolve(),
            rank=asked.rank,
            modules=modules,
            seed=index,
        )


if __name__ == "__main__":
    main()
