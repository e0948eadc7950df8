from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from ferrule.errors import LoadError, OptionError
from ferrule.lora import merge_adapter, open_adapter

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def merge(open_base):
    def run(trained, out, **settings):
        base = open_base(trained.base)
        adapter = open_adapter(str(trained.adapter), base=base, merging=True)
        return merge_adapter(base, adapter, out, **settings)

    return run


@pytest.fixture
def check(merge, logits_of, tmp_path, open_base):
    """Merges, and compares logits with peft's unmerged model."""

    def run(trained):
        merged = merge(trained, tmp_path / "out")
        torch.testing.assert_close(
            logits_of(tmp_path / "out"), trained.logits, rtol=1e-4, atol=1e-4
        )
        open_base(tmp_path / "out")
        return merged

    return run


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_L23_all_modules_are_merged(check, train, family, use_dora):
    merged = check(train(family, target_modules=ALL, use_dora=use_dora))
    assert merged.num_changed == 21
    assert not merged.is_untied


def test_weights_are_those_of_merge_and_unload(merge, train, tmp_path):
    trained = train(target_modules=ALL, use_rslora=True)
    merge(trained, tmp_path / "out")
    expected = trained.model.merge_and_unload().state_dict()
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


def test_L22_a_16_bit_base_is_rounded_once(merge, train, tmp_path):
    trained = train(target_modules=["q_proj"])
    weights = load_file(trained.base / "model.safetensors")
    half = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(half, trained.base / "model.safetensors")
    merge(trained, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a = trained.tensors[f"base_model.model.{name}.lora_A.weight"].double()
    b = trained.tensors[f"base_model.model.{name}.lora_B.weight"].double()
    exact = half[f"{name}.weight"].double() + 1.5 * b @ a
    assert found[f"{name}.weight"].dtype == torch.bfloat16
    # Half a unit in the last place of bfloat16, and float32's own error.
    assert ((found[f"{name}.weight"].double() - exact).abs() <= exact.abs() * 2**-8).all()
    assert torch.equal(found["model.norm.weight"], half["model.norm.weight"])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    ],
    ids=str,
)
def test_L4_L5_embeddings_and_heads_are_untied_where_they_differ(
    check, train, settings, tied, tmp_path
):
    assert check(train(tied=tied, **settings)).is_untied is tied
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize("tied", [False, True])
def test_L6_a_resized_vocabulary_is_in_the_config(check, train, tied, tmp_path):
    trained = train(
        before=lambda model: model.resize_token_embeddings(100, mean_resizing=False),
        save={"save_embedding_layers": True},
        tied=tied,
    )
    assert not check(trained).is_untied
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 100


def test_L8_biases_of_a_base_that_has_them(check, train):
    check(train("qwen2", bias="all"))


def test_L8_a_bias_without_a_place_is_refused(merge, train, tmp_path):
    trained = train(lora_bias=True)
    with pytest.raises(LoadError, match="adds a bias to 6 modules that have none"):
        merge(trained, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_that_only_the_file_unties(check, train, tmp_path):
    """The config says that it is tied, and the file has it all the same, as some trainers write."""
    trained = train(target_modules=["embed_tokens", "q_proj"], tied=True)
    weights = load_file(trained.base / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    save_file({**weights, "lm_head.weight": head}, trained.base / "model.safetensors")
    assert check(trained).is_untied
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False


def test_norms_and_whole_layers_are_replaced(check, train):
    check(train(modules_to_save=["o_proj", "model.norm"]))


def test_large_models_are_written_in_shards(merge, train, logits_of, tmp_path):
    trained = train()
    merged = merge(trained, tmp_path / "out", max_shard_bytes=20_000)
    assert len(merged.files) > 2
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(merged.files)
    assert index["metadata"]["total_size"] == merged.num_bytes
    torch.testing.assert_close(logits_of(tmp_path / "out"), trained.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_odd_names_of_the_base_stay(merge, train, tmp_path, prefix):
    trained = train(modules_to_save=["lm_head"], tied=True)
    weights = load_file(trained.base / "model.safetensors")
    odd = {prefix + name: weight for name, weight in weights.items()}
    save_file(odd, trained.base / "model.safetensors")
    merge(trained, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == {*odd, f"{prefix}lm_head.weight"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft tells that the head is untied.
        expected = trained.model.merge_and_unload().state_dict()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name.removeprefix(prefix)], rtol=0, atol=1e-6)


def test_rows_of_a_fused_tensor_get_their_own_part(merge, train, tmp_path):
    trained = train(target_modules=["q_proj", "v_proj"])
    weights = load_file(trained.base / "model.safetensors")

    def fuse(tensors):
        fused = dict(tensors)
        for layer in range(3):
            prefix = f"model.layers.{layer}.self_attn"
            parts = [fused.pop(f"{prefix}.{part}_proj.weight") for part in "qkv"]
            fused[f"{prefix}.qkv_proj.weight"] = torch.cat(parts)
        return fused

    save_file(fuse(weights), trained.base / "model.safetensors")
    merge(trained, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, weight in fuse(trained.model.merge_and_unload().state_dict()).items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)


def test_an_existing_directory_is_left_alone(merge, train, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(OptionError, match="exists already"):
        merge(train(), tmp_path / "out")


def test_a_failed_merge_leaves_nothing_behind(merge, train, tmp_path):
    def fail(done, total):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        merge(train(), tmp_path / "out", progress=fail)
    assert not list(tmp_path.glob("out*"))


def test_a_quantised_base_is_refused(merge, train, tmp_path):
    trained = train()
    weights = load_file(trained.base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file(
        {**weights, name: weights[name].to(torch.float8_e4m3fn)},
        trained.base / "model.safetensors",
    )
    with pytest.raises(LoadError, match="as F8_E4M3, which nothing can be added to"):
        merge(trained, tmp_path / "out")


@pytest.mark.realmodel
def test_L21_a_gguf_base_is_refused(smollm2, adapters, open_base, tmp_path):
    base = open_base(smollm2 / "smollm2-135m.gguf")
    adapter = open_adapter(str(adapters / "lora-pirate"), base=base, merging=True)
    with pytest.raises(LoadError, match="is a GGUF file"):
        merge_adapter(base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()
