from __future__ import annotations

import inspect

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from ferrule.cli.engine_flags import engine_flags
from ferrule.cli.flag_groups import takes
from ferrule.engine.options import EngineOptions


def parse(*arguments, env=None):
    found = []

    @takes(options=engine_flags)
    def command(options: EngineOptions) -> None:
        found.append(options)

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments, env=env)
    return found[0] if found else result


def test_a_model_alone_gives_the_engines_own_defaults():
    assert parse("org/name") == EngineOptions(model="org/name")


def test_every_option_of_an_engine_is_a_flag():
    # The tokenizer says it, not the user; and flags for adapters are in lora_flags.py.
    options = set(EngineOptions.__struct_fields__) - {"num_known_tokens"}
    options = {name for name in options if "lora" not in name}
    assert options <= set(inspect.signature(engine_flags).parameters)


def test_flags_are_named_as_in_max(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.touch()
    options = parse(
        *("--model-path", "m", "--weight-path", "w.gguf", "--quantization-encoding", "q4_k"),
        *("--dtype", "float32", "--devices", "gpu:1", "--architecture", "a"),
        *("--weight-adapter", "b", "--plugin", str(plugin), "--plugin", str(plugin)),
        *("--max-length", "100", "--max-batch-size", "3", "--max-batch-input-tokens", "64"),
        *("--device-memory-utilization", "0.5", "--kv-cache-page-size", "16"),
        *("--num-kv-blocks", "9", "--no-enable-prefix-caching"),
    )
    assert options == EngineOptions(
        model="m",
        weight_path="w.gguf",
        quantization_encoding="q4_k",
        dtype="float32",
        devices="gpu:1",
        architecture="a",
        weight_adapter="b",
        plugins=(str(plugin), str(plugin)),
        max_length=100,
        max_batch_size=3,
        max_batch_input_tokens=64,
        device_memory_utilization=0.5,
        kv_cache_page_size=16,
        num_kv_blocks=9,
        enable_prefix_caching=False,
    )


def test_the_environment_sets_flags_and_the_command_line_overrules_it():
    env = {"FERRULE_MAX_LENGTH": "100", "FERRULE_ENABLE_PREFIX_CACHING": "false"}
    options = parse("m", env=env)
    assert (options.max_length, options.enable_prefix_caching) == (100, False)
    assert parse("m", "--max-length", "50", env=env).max_length == 50


def test_the_same_model_twice_is_one_model():
    assert parse("m", "--model", "m").model == "m"


def test_options_survive_the_way_to_the_engine_process():
    options = parse("m", "--max-length", "9")
    sent = msgspec.msgpack.encode(options)
    assert msgspec.msgpack.decode(sent, type=EngineOptions) == options


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a directory"),
        (["a", "--model", "b"], "two models"),
        (["m", "--dtype", "int8"], "bfloat16"),
        (["m", "--max-batch-size", "0"], "--max-batch-size"),
        (["m", "--plugin", "/nowhere/p.py"], "/nowhere/p.py"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(arguments, said):
    result = parse(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
