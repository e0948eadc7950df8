from __future__ import annotations

import pytest
import torch
from torch import nn

from ferrule.enable_lora import num_lora_slots, touched_everywhere
from ferrule.engine.options import EngineOptions
from ferrule.errors import LoadError, OptionError
from ferrule.layers import Embedding, Linear
from ferrule.layers.lora import LoraMode
from ferrule.llm import LLM


def write_adapter(folder, rank=4):
    import json

    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    path = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {path.format("A"): torch.randn(rank, 64), path.format("B"): torch.randn(64, rank)}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
    config["layers_to_transform"] = [0]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def load(tiny_llama):
    return lambda **options: LLM(tiny_llama, devices="cpu", **options).info


def test_without_adapters_nothing_is_kept_for_them(load):
    info = load()
    assert (info.max_lora_rank, info.lora_bytes, info.loras) == (0, 0, {})


def test_room_follows_the_adapters_that_are_given(load, tmp_path):
    small, large = write_adapter(tmp_path / "s", 3), write_adapter(tmp_path / "l", 20)
    info = load(enable_lora=True, lora_paths=(("s", small), ("l", large)))
    assert (info.max_lora_rank, list(info.loras)) == (20, ["s", "l"])
    # One layer's three fused parts for two slots, rank 32 in whole tiles, float32.
    assert info.lora_bytes == 2 * (4 * 32 * (3 * 64 + 128) + 4 * 3)


def test_room_is_made_for_all_layers_where_adapters_may_come(load):
    info = load(enable_lora=True, enable_lora_updates=True, max_loras=2)
    assert info.max_lora_rank == 64
    parts = {"qkv": (3, 128), "o": (1, 64), "gate_up": (2, 256), "down": (1, 64)}
    columns = {"down": 128}
    expected = sum(
        2 * (4 * 64 * (num * columns.get(name, 64) + width) + 4 * num)
        for name, (num, width) in parts.items()
    )
    assert info.lora_bytes == 2 * expected, "two layers"


def test_a_rank_that_is_too_small_is_an_error_that_names_the_flag(load, tmp_path):
    path = write_adapter(tmp_path / "a", 9)
    with pytest.raises(OptionError, match="--max-lora-rank is 8, and a has rank 9") as error:
        load(enable_lora=True, lora_paths=(("a", path),), max_lora_rank=8)
    assert "--max-lora-rank 9" in error.value.hint


def test_a_broken_adapter_ends_the_start(load, tmp_path):
    path = write_adapter(tmp_path / "a", 2)
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    with pytest.raises(LoadError):
        load(enable_lora=True, lora_paths=(("a", path),))


def test_kernels_are_compiled_for_as_many_slots_as_there_will_be():
    def slots(**options):
        return num_lora_slots(EngineOptions(model="m", **options))

    paths = tuple((name, "p") for name in "abc")
    assert slots() == 0
    assert slots(enable_lora=True) == 1
    assert slots(enable_lora=True, lora_paths=paths) == 3
    assert slots(enable_lora=True, lora_paths=paths * 4) == 3, "a name given twice"
    assert slots(enable_lora=True, lora_paths=paths, enable_lora_updates=True) == 8
    assert slots(enable_lora=True, lora_paths=paths, max_loras=2) == 2


def test_every_layer_has_work_for_an_adapter_where_kernels_are_compiled():
    model = nn.ModuleDict({"p": Linear(4, {"a": 3, "b": 5}), "e": Embedding(6, 4, tied=False)})
    named = {"max_batch_size": 4, "dtype": torch.float32, "device": torch.device("cpu")}
    assert touched_everywhere(EngineOptions(model="m"), model, **named) is None
    model["p"].weight_shapes("p")
    slots = touched_everywhere(EngineOptions(model="m", enable_lora=True), model, **named)
    assert slots.version == 1
    with slots.state.using(LoraMode.DELTAS, {}):
        assert model["p"].lora.is_active
