from __future__ import annotations

import numpy as np
import pytest

from ferrule.errors import CheckpointError, LoadError
from ferrule.matching import match


def under(prefix, tensors):
    return {f"{prefix}.{name}": data for name, data in tensors.items()}


def inside(part, segment, tensors):
    """A segment after some part of the path."""
    return {name.replace(part, f"{part}{segment}.", 1): data for name, data in tensors.items()}


NESTINGS = {
    "w1": lambda t: under("_orig_mod", t),
    "w1-mid-path": lambda t: inside("model.", "_orig_mod", t),
    "w1-per-block": lambda t: inside(".0.", "_orig_mod", inside(".1.", "_orig_mod", t)),
    "w1-twice-in-a-name": lambda t: under("_orig_mod", inside("model.", "_orig_mod", t)),
    "w2": lambda t: under("module", t),
    "w2-compiled-outside": lambda t: under("_orig_mod.module", t),
    "w2-compiled-inside": lambda t: under("module._orig_mod", t),
    "w3-fsdp": lambda t: under("_fsdp_wrapped_module", inside(".0.", "_fsdp_wrapped_module", t)),
    "w3-checkpoint": lambda t: inside(".1.", "_checkpoint_wrapped_module", t),
    "w3-all-at-once": lambda t: under(
        "module._fsdp_wrapped_module",
        inside(".0.", "_fsdp_wrapped_module._checkpoint_wrapped_module._orig_mod", t),
    ),
    "w4": lambda t: under("base_model.model", t),
    "w4-in-ddp": lambda t: under("module.base_model.model", t),
    "w6": lambda t: {name.removeprefix("model."): data for name, data in t.items()},
    "w6-in-fsdp": lambda t: under(
        "_fsdp_wrapped_module", {n.removeprefix("model."): d for n, d in t.items()}
    ),
    "w7": lambda t: {name.replace("model.", "model.model.", 1): data for name, data in t.items()},
    "w7-head-too": lambda t: under("model", t),
    "w7-head-doubled": lambda t: under("model.model", t),
    "w8-model.language_model": lambda t: {
        name.replace("model.", "model.language_model.", 1): data for name, data in t.items()
    },
    "w8-language_model.model": lambda t: under("language_model", t),
    "w8-model.text_model": lambda t: {
        name.replace("model.", "model.text_model.", 1): data for name, data in t.items()
    },
    "w8-llm": lambda t: under("llm", t),
    "w8-thinker": lambda t: under("thinker", t),
    "w8-transformer": lambda t: under("transformer", t),
    "w8-in-a-peft-model": lambda t: under("base_model.model.language_model", t),
    "w8-model.language_model.model": lambda t: under("model.language_model", t),
}


@pytest.mark.parametrize("nest", NESTINGS.values(), ids=NESTINGS)
def test_w1_to_w8_prefixes_peel_off_in_any_nesting(tensors, config, store, assert_reads_as, nest):
    stored = nest(tensors)
    assert stored.keys() != tensors.keys()
    found = assert_reads_as(store(stored, config), tensors)
    assert found.adapters[-1].name == "huggingface"
    assert all(note.startswith("peeled off: ") for note in found.notes)


def test_w2_only_some_tensors_have_the_prefix(tensors, config, store, assert_reads_as):
    stored = {
        name if name == "lm_head.weight" else f"module.{name}": data
        for name, data in tensors.items()
    }
    assert_reads_as(store(stored, config), tensors)


def test_w2_the_same_weight_with_and_without_prefix_is_an_error(tensors, config, store, plugins):
    tensors["module.model.norm.weight"] = tensors["model.norm.weight"]
    with pytest.raises(LoadError, match=r"Two stored tensors become model\.norm\.weight"):
        match(store(tensors, config), plugins)


@pytest.mark.parametrize(
    "parts",
    [
        ["base_layer.weight", "lora_A.default.weight", "lora_B.default.weight"],
        ["modules_to_save.default.weight", "original_module.weight"],
        ["base_layer.weight", "lora_magnitude_vector.default.weight"],
    ],
)
def test_w5_unmerged_peft_state_is_refused_with_the_way_to_merge(
    tensors, config, store, plugins, parts
):
    name = "model.layers.0.self_attn.q_proj"
    data = tensors.pop(f"{name}.weight")
    tensors |= {f"{name}.{part}": data for part in parts}
    with pytest.raises(CheckpointError, match="unmerged PEFT state") as error:
        match(store(under("base_model.model", tensors), config), plugins)
    assert f"{len(parts)} of its {len(tensors)} tensors" in error.value.message
    assert parts[0] in error.value.message
    assert "merge_and_unload" in error.value.hint


def test_w6_does_not_take_metas_names_for_a_bare_model(config, store, plugins):
    names = ("layers.0.attention.wq.weight", "norm.weight", "tok_embeddings.weight")
    stored = store({name: np.ones(4, "<f4") for name in names}, config)
    bare = plugins.weight_adapters["bare-model"]
    assert not bare.matches(stored)


@pytest.mark.parametrize(
    "name", ["transformer.h.0.attn.c_attn.weight", "text_model.encoder.layers.0.self_attn.k"]
)
def test_w8_a_segment_before_something_else_stays(store, config, plugins, name):
    stored = store({name: np.ones(4, "<f4")}, config)
    assert not any(
        adapter.matches(stored)
        for adapter in plugins.weight_adapters.values()
        if adapter.name.startswith("text-model")
    )


@pytest.mark.parametrize(
    ("prefix", "extra"),
    [
        ("language_model", "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"),
        ("language_model", "multi_modal_projector.linear_1.weight"),
        ("language_model", "model.image_newline"),
        ("thinker", "thinker.visual.blocks.0.attn.qkv.weight"),
        ("thinker", "talker.model.layers.0.self_attn.q_proj.weight"),
        (None, "visual.blocks.0.attn.qkv.weight"),
        (None, "model.vision_tower.patch.weight"),
        (None, "mm_whisper_embeddings.whisper_encoder.conv.weight"),
        (None, "mtp.layers.0.mlp.gate.weight"),
        (None, "mlp_AR.linear.weight"),
        (None, "score.weight"),
        (None, "v_head.summary.weight"),
    ],
)
def test_w10_other_parts_are_left_out_and_reported(
    tensors, config, store, assert_reads_as, prefix, extra
):
    stored = under(prefix, tensors) if prefix else dict(tensors)
    stored[extra] = np.ones((3, 3), "<f4")
    found = assert_reads_as(store(stored, config), tensors)
    assert list(found.ignored) == [extra]
    assert any("1 tensor left out by" in note for note in found.notes)


def test_w10_the_score_of_a_reward_model_without_a_head_is_not_dropped(
    tensors, config, store, plugins
):
    del tensors["lm_head.weight"]
    tensors["score.weight"] = np.ones((1, 8), "<f4")
    found = match(store(tensors, config), plugins)
    assert "score.weight" in found.checkpoint.tensors  # so that loading refuses it
    assert found.ignored == {}


class TestTextConfig:
    def whole(self, config, **text_changes):
        text = {key: value for key, value in config.items() if key != "architectures"}
        return {
            "model_type": "llava",
            "architectures": ["LlavaForConditionalGeneration"],
            "vision_config": {"hidden_size": 1024},
            "image_token_index": 32000,
            "tie_word_embeddings": True,
            "eos_token_id": 5,
            "text_config": text | text_changes,
        }

    def test_w8_the_text_models_own_config_counts(self, tensors, config, store, assert_reads_as):
        stored = store(under("language_model", tensors), self.whole(config))
        found = assert_reads_as(stored, tensors)
        assert found.architecture.name == "llama"
        assert found.config.hidden_size == 8
        assert found.checkpoint.config["eos_token_id"] == 5  # left to the whole model
        assert found.checkpoint.config["tie_word_embeddings"] is False  # the text model's own
        assert "peeled off: text-config" in " ".join(found.notes)

    def test_w9_text_names_under_a_whole_models_class(self, tensors, config, store, plugins):
        found = match(store(tensors, self.whole(config)), plugins)
        assert found.architecture.name == "llama"

    def test_w8_a_null_in_the_text_config_counts(self, tensors, config, store, plugins):
        whole = self.whole(config, model_type="mistral", sliding_window=None)
        found = match(store(tensors, whole), plugins)
        assert found.config.windows == (None, None)

    def test_w8_nested_text_configs_are_all_opened(self, tensors, config, store, plugins):
        whole = {"model_type": "omni", "thinker_config": self.whole(config), "talker_config": {}}
        found = match(store(under("thinker", tensors), whole), plugins)
        assert found.architecture.name == "llama"

    @pytest.mark.parametrize("kind", ["qwen2_vl_text", "qwen2_5_vl_text"])
    @pytest.mark.parametrize(
        "rope",
        [
            {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1]}},
            {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1]}},
        ],
    )
    def test_w8_a_qwen_vision_models_text_half_is_qwen2(
        self, tensors, config, store, plugins, kind, rope
    ):
        whole = self.whole(config, model_type=kind, vision_start_token_id=7, **rope)
        found = match(store(under("model.language_model", tensors), whole), plugins)
        assert found.architecture.name == "qwen2"
        assert found.config.rope.type == "default"

    def test_w9_a_flat_config_beside_a_vision_config(self, tensors, config, store, plugins):
        flat = config | {
            "model_type": "qwen2_vl",
            "architectures": ["Qwen2VLForConditionalGeneration"],
            "vision_config": {"depth": 32},
            "vision_start_token_id": 3,
            "image_token_id": 4,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1]},
        }
        found = match(store(tensors, flat), plugins)
        assert found.architecture.name == "qwen2"


def test_e3_a_tied_head_alone_is_the_embedding(tensors, config, store, assert_reads_as):
    del tensors["model.embed_tokens.weight"]
    expected = dict(tensors)
    expected["model.embed_tokens.weight"] = expected.pop("lm_head.weight")
    stored = store(tensors, config | {"tie_word_embeddings": True})
    found = assert_reads_as(stored, expected)
    assert found.config.tie_word_embeddings


def test_e3_without_a_tie_the_head_stays_the_head(tensors, config, store, plugins):
    del tensors["model.embed_tokens.weight"]
    found = match(store(tensors, config), plugins)
    assert "lm_head.weight" in found.checkpoint.tensors
    assert "model.embed_tokens.weight" not in found.checkpoint.tensors


def test_e4_a_missing_head_ties_and_says_so(tensors, config, store, plugins):
    del tensors["lm_head.weight"]
    found = match(store(tensors, config), plugins)
    assert found.config.tie_word_embeddings
    assert any("no lm_head" in note for note in found.notes)


def test_no_wrapper_touches_a_plain_checkpoint(tensors, config, store, plugins):
    stored = store(tensors, config)
    wrappers = [a for a in plugins.weight_adapters.values() if a.kind == "wrapper"]
    assert len(wrappers) > 10
    assert not [wrapper.name for wrapper in wrappers if wrapper.matches(stored)]
