from __future__ import annotations

import pytest

from ferrule.lora.peft_config import PeftConfig
from ferrule.lora.peft_names import parts_of
from ferrule.lora.stored import PartKind

CONFIG = PeftConfig(location="here", rank=8, alpha=8, modules_to_save=["lm_head"])


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [
        ("base_model.model.a.q.lora_A.weight", "a.q", PartKind.a),
        ("a.q.lora_B.default.weight", "a.q", PartKind.b),
        ("a.q.lora_B.bias", "a.q", PartKind.lora_bias),
        ("a.lora_embedding_A", "a", PartKind.embedding_a),
        ("a.lora_embedding_B.mine", "a", PartKind.embedding_b),
        ("a.lora_magnitude_vector", "a", PartKind.magnitude),
        ("a.lora_magnitude_vector.default.weight", "a", PartKind.magnitude),
        ("a.lora_magnitude_vector.weight", "a", PartKind.magnitude),
        ("a.base_layer.weight", "a", PartKind.base_weight),
        ("a.q.base_layer.bias", "a.q", PartKind.bias),
        ("a.q.bias", "a.q", PartKind.bias),
        ("a.embed.weight", "a.embed", PartKind.base_weight),
        ("base_model.model.lm_head.weight", "lm_head", PartKind.weight),
        ("lm_head.modules_to_save.weight", "lm_head", PartKind.weight),
        ("lm_head.modules_to_save.default.weight", "lm_head", PartKind.weight),
        ("lm_head.original_module.weight", "lm_head", PartKind.base_weight),
        ("a.token_adapter.trainable_tokens_delta", "a", PartKind.token_rows),
    ],
)
def test_every_form_that_peft_writes(name, module, kind):
    (part,), unknown = parts_of("here", [name], CONFIG)
    assert (part.module, part.kind, part.stored) == (module, kind, name)
    assert unknown == ()


@pytest.mark.parametrize(
    "name", ["a.lora_A", "a.lora_A.x.y.weight", "a.lora_C.weights", "weight", "a.rotary.inv_freq"]
)
def test_other_names_are_unknown(name):
    assert parts_of("here", [name], CONFIG) == ((), (name,))
