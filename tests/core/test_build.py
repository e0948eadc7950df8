"""An engine from options: what it says of itself is what was made."""

from __future__ import annotations

import json
import sys
from textwrap import dedent

import msgspec
import pytest
import torch
from safetensors.numpy import load_file

from ferrule.build import build_engine
from ferrule.engine.messages import Request
from ferrule.engine.options import EngineOptions
from ferrule.errors import FerruleError, OptionError, OutOfMemoryError, PluginError
from ferrule.plan import SamplingParams


@pytest.fixture
def options(tiny_llama):
    return EngineOptions(
        model=str(tiny_llama), devices="cpu", max_batch_size=3, kv_cache_page_size=16
    )


def changed(options, **changes):
    return msgspec.structs.replace(options, **changes)


def run(engine, request):
    """All tokens of one request."""
    engine.add(request)
    tokens = []
    while engine.has_work:
        for output in engine.step():
            assert output.error is None
            tokens += output.tokens
    return tokens


def test_the_files_own_type_is_taken_unless_another_is_asked_for(options):
    assert build_engine(options)[1].dtype == "float32"


def test_an_engine_that_was_built_answers(options):
    engine, info = build_engine(options)
    sampling = SamplingParams(temperature=0, max_tokens=5)
    tokens = run(engine, Request(id="a", tokens=[1, 2, 3], sampling=sampling))
    assert len(tokens) == 5
    assert max(tokens) < info.vocab_size


def test_ids_that_the_tokenizer_does_not_know_are_not_generated(options):
    engine, _ = build_engine(changed(options, num_known_tokens=7))
    sampling = SamplingParams(temperature=2.0, seed=5, max_tokens=60)
    tokens = run(engine, Request(id="a", tokens=[100, 200], sampling=sampling))
    assert set(tokens) <= set(range(7))
    assert len(set(tokens)) > 3


def test_what_was_noted_of_the_checkpoint_is_handed_on(options, tiny_llama):
    config = json.loads((tiny_llama / "config.json").read_text())
    (tiny_llama / "config.json").write_text(json.dumps({**config, "vocab_size": 999}))
    _, info = build_engine(options)
    assert any("vocab_size is 999" in note for note in info.notes)
    assert info.vocab_size == 272


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_a_context_without_room_for_an_answer_is_refused(options, max_length):
    with pytest.raises(OptionError, match=f"--max-length is {max_length}; expected at least 2"):
        build_engine(changed(options, max_length=max_length))


def test_a_context_beyond_the_models_is_refused_with_the_longest_one(options):
    with pytest.raises(OptionError, match="--max-length is 300") as caught:
        build_engine(changed(options, max_length=300))
    assert "--max-length 256" in caught.value.hint


def test_stages_are_told_in_order_and_weights_to_their_end(options):
    told = []
    _, info = build_engine(options, told.append)
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == [
        "finding plugins",
        "reading headers",
        "loading weights",
        "allocating KV cache",
    ]
    assert [each.stage for each in told] == sorted((each.stage for each in told), key=stages.index)
    fractions = [each.fraction for each in told if each.stage == "loading weights"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    (headers,) = (each for each in told if each.stage == "reading headers")
    assert headers.detail == options.model
    assert told[-1].detail == f"{info.kv_bytes / 1024**2:.0f} MiB"


def test_memory_that_runs_out_while_weights_are_loaded_is_said_so(options, monkeypatch):
    def load(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ferrule.build.load", load)
    with pytest.raises(OutOfMemoryError, match="cpu ran out while weights were loaded"):
        build_engine(options)


def test_weights_larger_than_the_free_memory_are_refused_before_anything_is_read(
    options, monkeypatch
):
    num_weights = sum(
        data.size for data in load_file(f"{options.model}/model.safetensors").values()
    )
    monkeypatch.setattr("ferrule.weight_memory.free_memory", lambda device: num_weights * 4 - 1)
    monkeypatch.setattr("ferrule.build.load", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(OutOfMemoryError, match="as float32"):
        build_engine(options)
    monkeypatch.undo()
    monkeypatch.setattr("ferrule.weight_memory.free_memory", lambda device: num_weights * 2)
    assert build_engine(changed(options, dtype="bfloat16"))[1].weight_bytes == num_weights * 2


PLUGIN = """
    from ferrule import Architecture, hookimpl
    from ferrule.hf_config import decoder_config, is_family

    def build(config):
        {body}

    @hookimpl
    def architectures():
        return [
            Architecture(
                name="shaky",
                matches=is_family("shaky", "ShakyForCausalLM"),
                configure=lambda checkpoint: decoder_config(checkpoint, defaults={{}}),
                build=build,
            )
        ]
"""


@pytest.fixture
def shaky(tiny_llama, tmp_path, monkeypatch):
    """``shaky(body)``: a checkpoint whose architecture is an installed plugin with this build."""
    module = "ferrule_test_shaky"

    def make(body):
        config = json.loads((tiny_llama / "config.json").read_text())
        config["model_type"] = "shaky"
        (tiny_llama / "config.json").write_text(json.dumps(config))
        site = tmp_path / "site"
        info = site / "shaky_models-1.2.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(dedent(PLUGIN).format(body=body))
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shaky-models\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[ferrule]\nshaky = {module}\n")
        monkeypatch.syspath_prepend(str(site))

    yield make
    sys.modules.pop(module, None)


def test_a_plugin_whose_build_crashes_is_named(options, shaky):
    shaky('raise KeyError("rotary_pct")')
    with pytest.raises(PluginError) as caught:
        build_engine(options)
    said = caught.value.message
    assert "'shaky' of shaky-models 1.2 failed in build" in said
    assert "KeyError: 'rotary_pct'" in said
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_a_plugin_refuses_on_purpose_is_left_as_it_is(options, shaky):
    shaky('from ferrule import FerruleError; raise FerruleError("no experts, please")')
    with pytest.raises(FerruleError, match=r"^no experts, please$"):
        build_engine(options)


def test_a_plugins_model_runs_like_a_built_in_one(options, shaky):
    sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    request = Request(id="a", tokens=list(range(9)), sampling=sampling)
    built_in = run(build_engine(options)[0], request)
    shaky("from ferrule.layers import Decoder; return Decoder(config)")
    engine, info = build_engine(options)
    assert info.architecture == "shaky"
    assert run(engine, request) == built_in
