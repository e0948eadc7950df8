#!/usr/bin/env python3
"""Derive three adapters from lora-pirate/ and a seed.

    python make_loras.py [--data FOLDER]      (default: the folder of this script)

    lora-rslora/  lora-pirate's tensors, rank-stabilised scaling, the same effect
    lora-ranks/   ranks and alphas that differ by module, the same effect
    lora-mlp/     seeded noise on all seven linear modules, rank 8, bf16

The maths is in README.md.  Needs numpy and safetensors.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save
from smollm2 import to_bf16, write_safetensors

RANK, ALPHA, LAYERS = 8, 16, 30
# lora-ranks: a key is a module's name, its end, or a regular expression, as in
# PEFT: the first key k with re.match(rf"(.*\.)?({k})$", module) counts.
RANKS = {"model.layers.3.self_attn.q_proj": 16, r"layers\.1[0-4]\.self_attn\.v_proj": 12}
ALPHAS = {
    "model.layers.3.self_attn.q_proj": 16,     # rank 16: scale 1
    r"layers\.1[0-4]\.self_attn\.v_proj": 48,  # rank 12: scale 4
    "layers.20.self_attn.q_proj": 64,          # rank  8: scale 8
}
SHAPES = {  # out, in of SmolLM2-135M's linear modules
    "self_attn.q_proj": (576, 576), "self_attn.k_proj": (192, 576), "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576), "mlp.gate_proj": (1536, 576), "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
}
MLP_SEED = 20260918
MLP_STD = {"A": 0.05, "B": 0.04}


def write(folder: Path, config: dict, **changes) -> None:
    folder.mkdir(exist_ok=True)
    text = json.dumps(config | changes, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def name(layer: int, module: str, part: str) -> str:
    return f"base_model.model.model.layers.{layer}.{module}.lora_{part}.weight"


def rslora(pirate: Path, out: Path, config: dict) -> None:
    write(out, config, use_rslora=True, lora_alpha=ALPHA / RANK * math.sqrt(RANK))
    shutil.copyfile(pirate / "adapter_model.safetensors", out / "adapter_model.safetensors")


def ranks(pirate: Path, out: Path, config: dict) -> None:
    write(out, config, rank_pattern=RANKS, alpha_pattern=ALPHAS)
    t = load_file(pirate / "adapter_model.safetensors")

    def widen(layer: int, module: str, rank: int) -> None:
        """Repeat the first rank-8 rows of A; halve the columns of B they share."""
        a, b = name(layer, module, "A"), name(layer, module, "B")
        extra = rank - RANK
        t[a] = np.concatenate([t[a], t[a][:extra]])
        half = t[b][:, :extra] / 2
        t[b] = np.concatenate([half, t[b][:, extra:], half], axis=1)

    def scale(layer: int, module: str, factor: float) -> None:  # powers of two: exact
        t[name(layer, module, "B")] *= np.float32(factor)

    widen(3, "self_attn.q_proj", 16)
    scale(3, "self_attn.q_proj", 2)
    for layer in range(10, 15):
        widen(layer, "self_attn.v_proj", 12)
        scale(layer, "self_attn.v_proj", 1 / 2)
    scale(20, "self_attn.q_proj", 1 / 4)
    (out / "adapter_model.safetensors").write_bytes(save(
        {k: np.ascontiguousarray(v) for k, v in t.items()}, metadata={"format": "pt"}))


def mlp(out: Path, config: dict) -> None:
    modules = sorted(m.rsplit(".", 1)[1] for m in SHAPES)
    write(out, config, target_modules=modules, lora_alpha=ALPHA, r=RANK)
    rng = np.random.RandomState(MLP_SEED)
    tensors = {}
    for layer in range(LAYERS):
        for module, (rows, cols) in SHAPES.items():
            tensors[name(layer, module, "A")] = to_bf16(rng.standard_normal((RANK, cols)) * MLP_STD["A"])
            tensors[name(layer, module, "B")] = to_bf16(rng.standard_normal((rows, RANK)) * MLP_STD["B"])
    write_safetensors(out / "adapter_model.safetensors", tensors)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--data", type=Path, default=Path(__file__).resolve().parent)
    data = p.parse_args().data
    pirate = data / "lora-pirate"
    config = json.loads((pirate / "adapter_config.json").read_text(encoding="utf-8"))
    rslora(pirate, data / "lora-rslora", config)
    ranks(pirate, data / "lora-ranks", config)
    mlp(data / "lora-mlp", config)


if __name__ == "__main__":
    main()
