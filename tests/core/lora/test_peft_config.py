from __future__ import annotations

import re

import pytest

from ferrule.errors import ConfigError
from ferrule.lora.peft_config import read_peft_config

MODULES = [
    f"model.layers.{layer}.{kind}"
    for layer in (0, 1, 11)
    for kind in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
] + ["model.embed_tokens", "lm_head"]


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "up_proj"]},
        {"target_modules": ["layers.1.mlp.up_proj"]},
        {"target_modules": r".*\.1{1,2}\..*proj"},
        {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"target_modules": ["q_proj"], "exclude_modules": r".*\.11\..*"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": 11},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h"]},
    ],
    ids=str,
)
def test_targets_are_those_of_peft(settings):
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists

    theirs = LoraConfig(**settings)
    ours = read_peft_config("here", {"peft_type": "LORA", "r": 8, "lora_alpha": 8, **settings})
    for name in MODULES:
        found = check_target_module_exists(theirs, name)
        is_target = bool(found) and not isinstance(found, _ExcludedModule)
        assert ours.is_target(name) == is_target, name


def test_patterns_are_those_of_peft():
    from peft.utils.other import get_pattern_key

    patterns = {"layers.1.self_attn.q_proj": 2, r"layers\.1+\..*": 3, "up_proj": 4, "_proj": 5}
    config = read_peft_config("here", {"rank_pattern": patterns, "alpha_pattern": patterns})
    for name in MODULES:
        expected = patterns.get(get_pattern_key(patterns.keys(), name), 8)
        assert config.rank_of(name) == expected, name
        assert config.scale(2, name) == expected / 2


def test_a_base_with_its_revision():
    config = read_peft_config("here", {"base_model_name_or_path": "org/base", "revision": "v2"})
    assert config.base == "org/base@v2"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"r": 0}, "has r 0"),
        ({"r": 4.5}, "has r 4.5"),
        ({"lora_alpha": "16"}, "has lora_alpha '16'"),
        ({"lora_alpha": True}, "has lora_alpha True"),
        ({"rank_pattern": {"q_proj": -1}}, "has r -1"),
        ({"rank_pattern": ["q_proj"]}, "numbers by module are expected"),
        ({"target_modules": "(q_proj"}, "is no regular expression"),
        ({"alpha_pattern": {"*": 3}}, "is no regular expression"),
        ({"task_type": "SEQ_CLS"}, "task SEQ_CLS"),
    ],
)
def test_wrong_values_are_named(settings, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        read_peft_config("here", settings)
