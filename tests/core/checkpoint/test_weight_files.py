import json

import pytest

from ferrule.checkpoint.weight_files import Wanted, WeightFiles, choose_weight_files
from ferrule.errors import CheckpointError

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def choose(tmp_path):
    def choose(*names, indexed=SHARDS, wanted=None) -> WeightFiles:
        for name in names:
            if name.endswith(".index.json"):
                weight_map = {f"tensor{number}": name for number, name in enumerate(indexed)}
                (tmp_path / name).write_text(json.dumps({"weight_map": weight_map}))
        return choose_weight_files("here", tmp_path, names, wanted)

    return choose


@pytest.mark.parametrize(
    "names",
    [
        ("model.safetensors",),
        ("model.safetensors", "consolidated.safetensors", "params.json"),
        ("model.safetensors", "model.fp16.safetensors"),
        ("model.safetensors", "adapter_model.safetensors"),
        ("model.safetensors", "model-Q4_K_M.gguf", "pytorch_model.bin"),
        # A stale index of an earlier save into the same directory.
        ("model.safetensors", INDEX, *SHARDS),
        ("model.safetensors", INDEX),
    ],
)
def test_model_safetensors_is_the_model(choose, names):
    assert choose(*names) == WeightFiles(kind="safetensors", names=("model.safetensors",))


@pytest.mark.parametrize(
    "others",
    [
        (),
        ("consolidated.safetensors", "consolidated.safetensors.index.json"),
        ("model-00003-of-00003.safetensors", "optimizer.safetensors"),
    ],
)
def test_index_chooses_its_shards_and_no_others(choose, others):
    expected = WeightFiles(kind="safetensors", names=SHARDS, index=INDEX)
    assert choose(INDEX, *SHARDS, *others) == expected


def test_index_may_name_model_safetensors_itself(choose):
    names = ("extra.safetensors", "model.safetensors")
    assert choose(INDEX, *names, indexed=names).names == names


def test_index_of_another_name_is_followed(choose):
    assert choose("weights.safetensors.index.json", *SHARDS).names == SHARDS


def test_missing_shards_are_named(choose):
    with pytest.raises(
        CheckpointError, match=f"names 2 files, of which 1 are missing: {SHARDS[1]}"
    ):
        choose(INDEX, SHARDS[0])


def test_single_file_of_any_name_is_the_model(choose):
    assert choose("finetuned.safetensors").names == ("finetuned.safetensors",)


def test_complete_shards_need_no_index(choose):
    assert choose(*SHARDS).names == SHARDS


@pytest.mark.parametrize("names", [SHARDS[:1], SHARDS[1:]])
def test_incomplete_shards_without_an_index_are_an_error(choose, names):
    missing = "00002" if names == SHARDS[:1] else "00001"
    with pytest.raises(CheckpointError, match=f"1 of 2 shards; missing are the numbers {missing}"):
        choose(*names)


def test_several_files_without_an_index_are_an_error(choose):
    with pytest.raises(CheckpointError, match=r"a\.safetensors, b\.safetensors") as caught:
        choose("a.safetensors", "b.safetensors")
    assert "--weight-path here/a.safetensors" in caught.value.hint


@pytest.mark.parametrize(
    "names",
    [
        ("consolidated.safetensors",),
        ("consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"),
    ],
)
def test_consolidated_files_alone_are_the_model(choose, names):
    assert choose(*names, "params.json").names == names


def test_index_of_consolidated_files_is_followed(choose):
    names = ("consolidated-1.safetensors", "consolidated-2.safetensors")
    index = "consolidated.safetensors.index.json"
    expected = WeightFiles(kind="safetensors", names=names, index=index)
    assert choose(index, *names, "consolidated-3.safetensors", indexed=names) == expected


def test_only_gguf_file_is_the_model(choose):
    assert choose("a.gguf", "config.json") == WeightFiles(kind="gguf", names=("a.gguf",))


def test_parts_of_one_gguf_model_are_one_model(choose):
    parts = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    assert choose(*reversed(parts)).names == parts


def test_several_gguf_files_are_an_error_that_lists_them(choose):
    with pytest.raises(CheckpointError, match=r"2 GGUF files: q4\.gguf, q8\.gguf") as caught:
        choose("q8.gguf", "q4.gguf")
    assert "--weight-path here/q4.gguf" in caught.value.hint


def test_adapter_weights_are_no_model(choose, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="LoRA adapter"):
        choose("adapter_config.json", "adapter_model.safetensors")


QUANTISED = ("m-BF16.gguf", "m-Q4_0.gguf", "m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf")
QUANTISED += ("m-Q8_0-00002-of-00002.gguf", "m.IQ4_NL.gguf")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Q4_K_M", QUANTISED[2:3]),
        ("q4_k", QUANTISED[2:3]),
        ("q4_0", QUANTISED[1:2]),
        ("bfloat16", QUANTISED[:1]),
        ("q8_0", QUANTISED[3:5]),
        ("iq4_nl", QUANTISED[5:]),
    ],
)
def test_a_quantisation_chooses_among_gguf_files(choose, name, expected):
    for is_gguf in (True, False):
        wanted = Wanted(name=name, is_gguf=is_gguf)
        assert choose(*QUANTISED, wanted=wanted).names == expected


def test_a_quantisation_that_is_not_there_lists_those_that_are(choose):
    with pytest.raises(CheckpointError, match=r"named after Q6_K, but m-BF16.gguf, m-Q4_0"):
        choose(*QUANTISED, wanted=Wanted(name="Q6_K", is_gguf=False))
    with pytest.raises(CheckpointError, match="2 GGUF files"):
        choose("m-Q4_K_M.gguf", "m-Q4_K_S.gguf", wanted=Wanted(name="q4_k", is_gguf=False))


def test_only_a_variant_passes_over_safetensors(choose):
    names = ("model.safetensors", *QUANTISED)
    assert choose(*names, wanted=Wanted(name="q4_0", is_gguf=False)).kind == "safetensors"
    assert choose(*names, wanted=Wanted(name="q4_0", is_gguf=True)).names == ("m-Q4_0.gguf",)


def test_one_gguf_file_is_taken_whatever_it_is_called_and_checked_later(choose):
    assert choose("mine.gguf", wanted=Wanted(name="q4_0", is_gguf=False)).names == ("mine.gguf",)
