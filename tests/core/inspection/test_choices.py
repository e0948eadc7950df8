from __future__ import annotations

from ferrule.engine.options import EngineOptions
from ferrule.inspection import inspect_checkpoint


def choices(folder, **options):
    report = inspect_checkpoint(EngineOptions(model=str(folder), devices="cpu", **options))
    return report, report.choices


def test_wrappers_come_in_the_order_in_which_they_peel_off(tiny_llama, change_tensors):
    change_tensors(tiny_llama, rename=lambda name: f"_orig_mod.module.{name}")
    _, found = choices(tiny_llama)
    assert [each.kind for each in found] == ["wrapper", "wrapper", "dialect", "architecture"]
    assert [each.name for each in found[2:]] == ["huggingface", "llama"]
    assert "_orig_mod.module.model." in found[0].reason
    assert "_orig_mod" not in found[1].reason


def test_every_choice_names_its_distribution_and_reason(tiny_llama):
    _, (dialect, architecture) = choices(tiny_llama)
    assert dialect.origin.startswith("ferrule ")
    assert dialect.reason == "reads 20 of 20 names"
    assert "model_type is 'llama'" in architecture.reason
    assert "LlamaForCausalLM" in architecture.reason


def test_a_choice_that_was_asked_for_says_so(tiny_llama):
    _, (dialect, architecture) = choices(
        tiny_llama, weight_adapter="huggingface", architecture="llama"
    )
    assert "--weight-adapter" in dialect.reason
    assert "--architecture" in architecture.reason


def test_what_is_installed_and_not_taken_is_listed(tiny_llama):
    report, _ = choices(tiny_llama)
    assert "llama" not in report.not_chosen["architecture"]
    assert {"mistral", "qwen2"} <= set(report.not_chosen["architecture"])
    assert "huggingface" not in report.not_chosen["dialect"]


def test_an_adapter_tells_its_first_change_and_what_it_leaves_out(tiny_llama, tmp_path):
    plugin = tmp_path / "renaming.py"
    plugin.write_text(
        "from ferrule import WeightAdapter, hookimpl\n"
        "@hookimpl\n"
        "def weight_adapters():\n"
        "    yield WeightAdapter(\n"
        "        name='mine', matches=lambda checkpoint: False,\n"
        "        names={'model.norm.weight': None, 'model.{rest*}': 'other.{rest*}'},\n"
        "    )\n"
    )
    report, (dialect, _) = choices(tiny_llama, weight_adapter="mine", plugins=(str(plugin),))
    assert dialect.origin == f"file {plugin}"
    assert "reads 20 of 20 names" in dialect.reason
    assert "changes 19: model.embed_tokens.weight is other.embed_tokens.weight" in dialect.reason
    assert "leaves 1 out" in dialect.reason
    assert report.ignored == {"model.norm.weight": "mine: model.norm.weight"}
