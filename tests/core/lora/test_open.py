"""Each L-case: read right, against peft's own model, or refused in words."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ferrule.errors import CheckpointError, ConfigError, FerruleError, LoadError
from ferrule.lora import open_adapter

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def check(open_base, logits_with):
    """Opens what was trained and compares its logits with peft's; gives the Adapter."""

    def run(trained, location=None):
        base = open_base(trained.base)
        adapter = open_adapter(str(location or trained.adapter), base=base)
        found = logits_with(trained.base, adapter)
        assert found.shape == trained.logits.shape
        torch.testing.assert_close(found, trained.logits, rtol=1e-4, atol=1e-4)
        return adapter

    return run


@pytest.fixture
def refused(open_base):
    """The error's whole text."""

    def run(trained, kind=LoadError, **settings):
        with pytest.raises(kind) as error:
            open_adapter(str(trained.adapter), base=open_base(trained.base), **settings)
        return str(error.value)

    return run


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_all_seven_modules_of_every_family(check, train, family):
    adapter = check(train(family, target_modules=ALL))
    assert len(adapter.modules) == 21
    assert adapter.rank == 4
    assert adapter.report.num_tensors == 42
    assert adapter.report.unused == {}


def test_L1_rslora_divides_by_the_root_of_the_rank(check, train):
    adapter = check(train(use_rslora=True))
    assert {update.scale for update in adapter.modules.values()} == {3.0}


def test_L2_rank_pattern_and_alpha_pattern(check, train):
    adapter = check(
        train(
            rank_pattern={
                r"layers\.[12]\.self_attn\.v_proj": 6,
                "model.layers.0.self_attn.q_proj": 2,
            },
            alpha_pattern={"layers.2.self_attn.q_proj": 20},
        )
    )
    ranks = {name: (update.rank, update.scale) for name, update in adapter.modules.items()}
    assert ranks["model.layers.0.self_attn.q_proj"] == (2, 3.0)
    assert ranks["model.layers.1.self_attn.v_proj"] == (6, 1.0)
    assert ranks["model.layers.2.self_attn.q_proj"] == (4, 5.0)
    assert ranks["model.layers.0.self_attn.v_proj"] == (4, 1.5)


def test_L2_patterns_and_rslora_together(check, train):
    check(train(use_rslora=True, rank_pattern={"q_proj": 9}, alpha_pattern={"v_proj": 3}))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_L3_dora(check, train, family):
    adapter = check(train(family, use_dora=True, target_modules=ALL))
    assert adapter.report.touched[0].parts == ["dora"]


def test_L3_dora_of_an_embedding(check, train):
    check(train(use_dora=True, target_modules=["embed_tokens", "q_proj"]))


def test_L3_a_missing_magnitude_is_told(refused, train):
    trained = train(use_dora=True)
    trained.rename(lambda n: None if "0.self_attn.q_proj.lora_magnitude" in n else n)
    text = refused(trained)
    assert "modules that lack a part (1)" in text
    assert "model.layers.0.self_attn.q_proj has no magnitude" in text


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("saved", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_L4_modules_to_save(check, train, saved, tied):
    adapter = check(train(modules_to_save=saved, tied=tied))
    full = {name for name, update in adapter.modules.items() if update.full is not None}
    assert full == {{"embed_tokens": "model.embed_tokens"}.get(name, name) for name in saved}


def test_L4_a_whole_linear_layer_can_only_be_merged(refused, train, open_base):
    trained = train(modules_to_save=["o_proj", "model.norm"])
    text = refused(trained)
    assert "model.layers.0.self_attn.o_proj is replaced as a whole" in text
    assert "model.norm is replaced as a whole" in text
    assert "ferrule merge" in text
    open_adapter(str(trained.adapter), base=open_base(trained.base), merging=True)


def test_L4_a_named_module_without_tensor_is_told(refused, train):
    trained = train(modules_to_save=["lm_head"])
    trained.rename(lambda name: None if "lm_head" in name else name)
    assert "lm_head is in modules_to_save and has no tensor" in refused(trained)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_L5_lora_on_embedding_and_head(check, train, family, tied):
    adapter = check(train(family, target_modules=["embed_tokens", "lm_head", "q_proj"], tied=tied))
    assert adapter.modules["model.embed_tokens"].a.shape == (4, 96)
    assert adapter.modules["lm_head"].b.shape == (96, 4)


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"trainable_token_indices": [1, 2]},
    ],
    ids=str,
)
def test_L4_L5_ties_that_peft_keeps(check, train, settings):
    adapter = check(train(tied=True, ensure_weight_tying=True, **settings))
    assert {"model.embed_tokens", "lm_head"} <= adapter.modules.keys()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("saved", [["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_L6_added_tokens(check, train, saved, tied):
    trained = train(
        before=lambda model: model.resize_token_embeddings(100, mean_resizing=False),
        modules_to_save=saved,
        save={"save_embedding_layers": True},
        tied=tied,
    )
    adapter = check(trained)
    assert adapter.vocab_size == 100
    assert adapter.modules["model.embed_tokens"].full.shape == (100, 32)
    assert adapter.modules["lm_head"].full.shape == (100, 32)


@pytest.mark.parametrize("tied", [False, True])
def test_L6_embeddings_that_were_only_resized(check, train, tied):
    adapter = check(
        train(
            before=lambda model: model.resize_token_embeddings(100, mean_resizing=False),
            save={"save_embedding_layers": True},
            tied=tied,
        )
    )
    assert adapter.vocab_size == 100
    assert adapter.modules["model.embed_tokens"].full.shape == (100, 32)


@pytest.mark.parametrize("tied", [False, True])
def test_L6_fewer_rows_than_the_padded_base(check, train, tied):
    adapter = check(
        train(
            before=lambda model: model.resize_token_embeddings(92),
            save={"save_embedding_layers": True},
            tied=tied,
        )
    )
    assert adapter.vocab_size == 92


@pytest.mark.parametrize("tied", [False, True])
def test_L6_trained_rows_of_some_tokens(check, train, tied):
    adapter = check(train(trainable_token_indices=[3, 90, 7], tied=tied))
    assert adapter.modules["model.embed_tokens"].full.shape == (96, 32)


def test_L7_base_weights_inside_the_adapter_change_nothing(check, train):
    trained = train(target_modules=["embed_tokens", "q_proj"])
    assert any("base_layer" in name for name in trained.tensors)
    adapter = check(trained)
    assert list(adapter.report.unused.values()) == ["equal to the base's own weight"] * 1
    assert adapter.modules["model.embed_tokens"].full is None


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_L8_trained_biases(check, train, bias):
    adapter = check(train("qwen2", bias=bias))
    biased = [name for name, update in adapter.modules.items() if update.bias is not None]
    assert len(biased) == (9 if bias == "all" else 6)


def test_L8_biases_of_a_base_without_any(check, train):
    assert all(u.bias is None for u in check(train(bias="all")).modules.values())


@pytest.mark.parametrize("rslora", [False, True])
def test_L8_lora_bias(check, train, rslora):
    adapter = check(train(lora_bias=True, use_rslora=rslora))
    assert all(update.bias is not None for update in adapter.modules.values())


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_L9_initialisations_that_change_the_base(refused, train, start):
    trained = train(init_lora_weights=start)
    text = refused(trained, ConfigError)
    assert start in text
    assert "changes the base's weights" in text
    assert "path_initial_model_for_weight_conversion" in text


@pytest.mark.parametrize("start", ["corda", "loftq", "lora_ga", "mica"])
def test_L9_more_of_them(refused, train, start):
    trained = train()
    trained.change_config(init_lora_weights=start)
    assert start in refused(trained, ConfigError)


@pytest.mark.parametrize("start", ["gaussian", False, "orthogonal"])
def test_L9_initialisations_that_leave_the_base_alone(check, train, start):
    check(train(init_lora_weights=start))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("alora_invocation_tokens", [5, 6], "after certain tokens"),
        ("layer_replication", [[0, 2], [1, 3]], "repeats layers"),
        ("use_qalora", True, "pools its inputs"),
        ("use_bdlora", {"nblocks": 2}, "block-diagonal"),
        ("arrow_config", {"top_k": 2}, "routes between"),
        ("target_parameters", ["mlp.experts.gate_up_proj"], "mixture-of-experts"),
        ("use_something_new", True, "not understood"),
    ],
)
def test_L10_L17_what_cannot_be_applied_is_refused_with_the_reason(refused, train, key, value, why):
    trained = train()
    trained.change_config(**{key: value})
    text = refused(trained, ConfigError)
    assert key in text
    assert why in text


def test_L10_another_method_of_peft(refused, train):
    trained = train()
    trained.change_config(peft_type="IA3")
    assert "IA3" in refused(trained, ConfigError)


@pytest.mark.parametrize(
    "targets",
    [
        "all-linear",
        r".*\.(q|o)_proj",
        r"model\.layers\.[01]\.mlp\.up_proj",
        ["layers.1.mlp.up_proj"],
    ],
)
def test_L11_targets_as_a_string_an_expression_or_full_names(check, train, targets):
    check(train(target_modules=targets))


def test_L11_layers_to_transform_and_exclude_modules(check, train):
    adapter = check(
        train(layers_to_transform=[0, 2], exclude_modules=["layers.2.self_attn.q_proj"])
    )
    assert [(each.kind, each.layers) for each in adapter.report.touched] == [
        ("self_attn.q_proj", [0]),
        ("self_attn.v_proj", [0, 2]),
    ]


def test_L12_prefixed_targets(check, train):
    assert len(check(train(target_modules=["self_attn.q_proj", "mlp.down_proj"])).modules) == 6


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("base_model.model.model.", "model."),
        ("base_model.model.model.", ""),
        ("base_model.model.model.", "base_model.model."),
        ("base_model.model.model.", "base_model.model.base_model.model.model."),
        ("base_model.model.model.", "base_model.model.model.language_model."),
        ("base_model.model.model.", "base_model.model.language_model.model."),
        ("base_model.model.model.", "base_model.model._orig_mod.model."),
        ("base_model.model.model.", "model.model."),
        (".lora_A.", ".lora_A.default."),
        (".weight", ".tuned.weight"),
    ],
)
def test_L13_other_prefixes_and_labels(check, train, before, after):
    trained = train(target_modules=["up_proj", "down_proj"])
    trained.rename(lambda name: name.replace(before, after, 1))
    check(trained)


def test_L2_L13_patterns_fit_names_that_a_tool_has_shortened(check, train):
    trained = train(
        target_modules=r"model\.layers\..*q_proj",
        rank_pattern={"model.layers.0.self_attn.q_proj": 8},
        alpha_pattern={r"model\.layers\.2\..*": 32},
    )
    trained.rename(lambda name: name.replace("base_model.model.model.", ""))
    assert check(trained).modules["model.layers.2.self_attn.q_proj"].scale == 8.0


def test_L13_names_of_no_module_are_listed_with_near_ones(refused, train):
    trained = train(target_modules=["q_proj"])
    trained.rename(lambda name: name.replace("q_proj", "q_pro"))
    text = refused(trained)
    assert "tensors that no module of the base takes (6)" in text
    assert "near: model.layers.0.self_attn.q_proj" in text


def test_L13_a_vision_tower_is_not_taken_for_the_language_model(refused, train):
    trained = train(target_modules=["q_proj"])
    trained.rename(lambda name: name.replace("model.model.", "model.model.vision_tower."))
    assert "no module of the base takes (6)" in refused(trained)


def test_L14_an_adapter_of_which_nothing_is_left(refused, train):
    trained = train(target_modules=["embed_tokens"])
    trained.rename(lambda name: name if "base_layer" in name else None)
    trained.change_config(target_modules=None)
    assert "changes nothing" in refused(trained)


def test_L14_targets_without_tensors_are_told(refused, train):
    trained = train()
    trained.rename(lambda name: None if "layers.1.self_attn.v_proj" in name else name)
    assert "model.layers.1.self_attn.v_proj is a target and has no tensors" in refused(trained)


def test_L14_tensors_that_are_no_targets_are_told(refused, train):
    trained = train()
    trained.change_config(target_modules=["v_proj"])
    assert "model.layers.0.self_attn.q_proj has tensors and is no target" in refused(trained)


@pytest.mark.parametrize("targets", [["k_proj"], ["q_proj", "v_proj"], ["gate_proj"]])
def test_L15_some_of_q_k_v_or_gate_up(check, train, targets):
    assert len(check(train(target_modules=targets)).modules) == 3 * len(targets)


def test_L16_fused_projections_are_split(check, train, tmp_path):
    """A model with qkv_proj and gate_up_proj is the same one: B's rows side by side, one A."""
    trained = train(target_modules=["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"])
    parts = {
        "self_attn.qkv_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "mlp.gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"],
    }
    tensors, fused = trained.tensors, {}
    for layer in range(3):
        for name, members in parts.items():
            prefix = f"base_model.model.model.layers.{layer}"
            a = [tensors[f"{prefix}.{each}.lora_A.weight"] for each in members]
            b = [tensors[f"{prefix}.{each}.lora_B.weight"] for each in members]
            # Different A's fuse as blocks: [A1; A2] and diag(B1, B2).
            fused[f"{prefix}.{name}.lora_A.weight"] = torch.cat(a)
            fused[f"{prefix}.{name}.lora_B.weight"] = torch.block_diag(*b)
    save_file(fused, trained.adapter / "adapter_model.safetensors")
    trained.change_config(
        target_modules=["qkv_proj", "gate_up_proj"],
        rank_pattern={"qkv_proj": 12, "gate_up_proj": 8},
        alpha_pattern={"qkv_proj": 18, "gate_up_proj": 12},
    )
    assert len(check(trained).modules) == 15


def test_L17_experts_are_listed_as_not_taken(refused, train):
    trained = train(target_modules=["q_proj"])
    name = "base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight"
    trained.rename(lambda name: name, add={name: torch.zeros(4, 32)})
    assert "mlp.experts.base_layer.lora_A.weight" in refused(trained)


@pytest.mark.parametrize("rank", [1, 64, 300])
def test_L18_any_rank_is_read_and_told(check, train, rank):
    assert check(train(r=rank)).report.rank == rank


def test_L18_a_rank_that_the_config_does_not_say(refused, train):
    trained = train()
    trained.change_config(r=8)
    assert "rank 4, 8 in adapter_config.json" in refused(trained)


def test_L19_a_base_in_another_precision(train, open_base):
    trained = train()
    weights = load_file(trained.base / "model.safetensors")
    save_file({n: w.bfloat16() for n, w in weights.items()}, trained.base / "model.safetensors")
    adapter = open_adapter(str(trained.adapter), base=open_base(trained.base))
    assert len(adapter.modules) == 6


def test_L20_an_adapter_of_a_larger_model(train, open_base, tmp_path, make_model):
    trained = train()
    make_model(hidden_size=64).save_pretrained(tmp_path / "other")
    with pytest.raises(LoadError, match="of another shape") as error:
        open_adapter(str(trained.adapter), base=open_base(tmp_path / "other"))
    assert "[4, 32] in the adapter, [4, 64] expected" in str(error.value)
    assert f"trained on {trained.base}" in str(error.value)


def test_L20_layers_that_the_base_lacks(train, open_base, tmp_path, make_model):
    trained = train()
    make_model(num_hidden_layers=2).save_pretrained(tmp_path / "other")
    with pytest.raises(LoadError, match=r"layers\.2\.self_attn\.q_proj"):
        open_adapter(str(trained.adapter), base=open_base(tmp_path / "other"))


@pytest.mark.parametrize(
    ("ending", "shape", "text"),
    [
        ("lora_magnitude_vector", (31,), "magnitude of model.layers.0.self_attn.q_proj: [31]"),
        ("lora_A.weight", (4, 32, 1), "is [4, 32, 1] in F32"),
        ("lora_A.weight", (4,), "A and B must be matrices"),
        ("lora_B.weight", (32, 3), "[32, 3] in the adapter, [32, 4] expected"),
    ],
)
def test_L20_shapes_are_held_against_the_base(refused, train, ending, shape, text):
    trained = train(use_dora=True)
    name = f"base_model.model.model.layers.0.self_attn.q_proj.{ending}"
    trained.rename(lambda name: name, add={name: torch.ones(shape)})
    assert text in refused(trained, FerruleError)


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([3, 7, 96], "exceed its rows"),
        ([3, 7], "[3, 32] in the adapter, [2, 32] expected"),
        ({"wte": [3, 7, 9]}, "no indices for it"),
    ],
)
def test_L6_rows_of_tokens_must_be_named(refused, train, indices, text):
    trained = train(trainable_token_indices=[3, 7, 9])
    trained.change_config(trainable_token_indices=indices)
    assert text in refused(trained)


def test_L8_biases_that_do_not_fit(refused, train):
    trained = train("qwen2", bias="all")
    prefix = "base_model.model.model.layers.0"
    trained.rename(
        lambda name: name,
        add={
            f"{prefix}.self_attn.q_proj.base_layer.bias": torch.ones(31),
            f"{prefix}.self_attn.o_proj.bias": torch.ones(32),
        },
    )
    text = refused(trained)
    assert "bias of model.layers.0.self_attn.q_proj: [31]" in text
    assert "(the base's model.layers.0.self_attn.o_proj has no bias)" in text


def test_L8_untrained_biases_change_nothing(open_base, train):
    trained = train("qwen2", bias="all")
    own = load_file(trained.base / "model.safetensors")
    biases = {
        name: own[name.removeprefix("base_model.model.").replace(".base_layer", "")]
        for name in trained.tensors
        if name.endswith(".bias")
    }
    trained.rename(lambda name: name, add=biases)
    adapter = open_adapter(str(trained.adapter), base=open_base(trained.base))
    assert set(adapter.report.unused.values()) == {"equal to the base's own bias"}
    assert all(update.bias is None for update in adapter.modules.values())


def test_L16_a_module_that_is_changed_twice_is_told(refused, train):
    trained = train()
    prefix = "base_model.model.model.layers.0.self_attn.qkv_proj"
    trained.rename(
        lambda name: name,
        add={
            f"{prefix}.lora_A.weight": torch.ones(4, 32),
            f"{prefix}.lora_B.weight": torch.ones(64, 4),
        },
    )
    assert "Two stored tensors become model.layers.0.self_attn.q_proj" in refused(trained)


def test_L13_two_spellings_of_one_module_are_told(refused, train):
    trained = train(target_modules=["q_proj"])
    other = "base_model.model.layers.0.self_attn.q_proj"
    trained.rename(
        lambda name: name,
        add={
            f"{other}.lora_A.weight": torch.ones(4, 32),
            f"{other}.lora_B.weight": torch.ones(32, 4),
        },
    )
    assert "model.layers.0.self_attn.q_proj is changed by" in refused(trained)


def test_one_tensor_under_two_names_must_be_the_same(refused, train):
    trained = train()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    short = name.removeprefix("base_model.model.")
    trained.rename(lambda name: name, add={short: torch.ones(32, 4)})
    assert "is the same of the same module" in refused(trained)


def test_a_file_with_two_adapters_is_refused(refused, train):
    trained = train()
    labels = iter(["one", "two"] * 100)
    trained.rename(lambda name: name.replace(".weight", f".{next(labels)}.weight"))
    assert "several adapters in one file: one, two" in refused(trained, CheckpointError)


def test_a_diverged_training_is_told(refused, train):
    trained = train()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    trained.rename(lambda name: name, add={name: torch.full((32, 4), float("nan"))})
    text = refused(trained)
    assert "infinite values or NaN (1)" in text
    assert name in text


def test_half_a_pair_is_told(refused, train):
    trained = train()
    trained.rename(lambda name: None if "0.self_attn.q_proj.lora_B" in name else name)
    assert "model.layers.0.self_attn.q_proj has A and no B" in refused(trained)


def test_tensors_left_empty_by_a_sharded_training_are_told(refused, train):
    trained = train()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    trained.rename(lambda name: name, add={name: torch.zeros(0, dtype=torch.int32)})
    assert "incomplete save" in refused(trained, CheckpointError)


def test_content_follows_what_is_computed_and_not_where_it_lies(check, train, open_base, tmp_path):
    trained = train()
    first = check(trained)
    copy = trained.adapter.rename(tmp_path / "elsewhere")
    again = open_adapter(str(copy), base=open_base(trained.base), name="other")
    assert again.name == "other"
    assert again.content == first.content
    config = copy / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 7}))
    changed = open_adapter(str(copy), base=open_base(trained.base))
    assert changed.content != first.content
