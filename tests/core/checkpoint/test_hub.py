import os
from pathlib import Path

import huggingface_hub
import pytest

from ferrule.checkpoint.hub import Hub
from ferrule.checkpoint.location import HubRepo
from ferrule.checkpoint.weight_files import Wanted
from ferrule.errors import CheckpointError

REPO = HubRepo(name="org/model")
WANTED = {"config.json", "tokenizer.json", "model.safetensors"}


@pytest.fixture
def model(hub, hub_model):
    hub.repos["org/model"] = hub_model
    return hub


def fetch(**kwargs) -> set[str]:
    folder = Hub.from_environment().fetch_checkpoint(REPO, **kwargs)
    return {path.name for path in folder.iterdir()}


def error_of(call) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        call()
    return caught.value


def test_only_needed_files_are_fetched(model):
    assert fetch() == WANTED
    assert model.fetched() == WANTED


def test_config_and_tokenizer_come_before_the_weights(model):
    fetch()
    gets = [request for request in model.requests if "GET" in request and "/resolve/" in request]
    assert gets[-1].endswith("model.safetensors")


def test_second_time_the_hub_is_not_asked(model):
    fetch()
    model.requests.clear()
    assert fetch() == WANTED
    assert model.requests == []


def test_weights_stay_where_they_are_when_not_wanted(model):
    assert fetch(with_weights=False) == {"config.json", "tokenizer.json"}


def test_cache_without_weights_is_completed(model):
    fetch(with_weights=False)
    assert fetch() == WANTED


def test_cache_without_a_tokenizer_is_completed(model):
    cache = os.environ["HF_HUB_CACHE"]
    for name in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download(REPO.name, name, endpoint=model.url, cache_dir=cache)
    assert fetch() == WANTED


def test_revision_is_fetched(model):
    repo = HubRepo(name="org/model", revision="v1")
    assert Hub.from_environment().fetch_checkpoint(repo).is_dir()
    assert any(request.endswith("/revision/v1") for request in model.requests)


def test_shards_of_the_index_are_fetched_and_no_others(model, hub_model):
    weights = hub_model.pop("model.safetensors")
    hub_model["model.safetensors.index.json"] = b'{"weight_map": {"a": "shard-1.safetensors"}}'
    hub_model |= {"shard-1.safetensors": weights, "stale.safetensors": weights}
    model.repos["org/model"] = hub_model
    assert fetch() >= {"shard-1.safetensors"}
    assert "stale.safetensors" not in model.fetched()


def test_index_naming_a_missing_shard_is_an_error_before_any_weights(model, hub_model):
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    hub_model["model.safetensors.index.json"] = index
    hub_model["model-1.safetensors"] = hub_model.pop("model.safetensors")
    assert "missing: model-2.safetensors" in error_of(fetch).message
    assert "model-1.safetensors" not in model.fetched()


def test_weights_without_a_config_are_an_error_before_they_are_fetched(model, hub_model):
    del hub_model["config.json"]
    assert "org/model has weights but no config.json" in error_of(fetch).message
    assert "model.safetensors" not in model.fetched()


def test_pickle_files_are_refused_before_they_are_fetched(model, hub_model):
    del hub_model["model.safetensors"], hub_model["consolidated.safetensors"]
    assert "pickle files only (pytorch_model.bin)" in error_of(fetch).message
    assert "pytorch_model.bin" not in model.fetched()


def test_only_gguf_file_is_fetched(hub):
    hub.repos["org/model"] = {"README.md": b"", "q4.gguf": b"GGUF"}
    assert fetch() == {"q4.gguf"}
    assert hub.fetched() == {"q4.gguf"}


def test_several_gguf_files_are_an_error_that_lists_them(hub):
    hub.repos["org/model"] = {"q4.gguf": b"GGUF", "q8.gguf": b"GGUF"}
    error = error_of(fetch)
    assert "2 GGUF files: q4.gguf, q8.gguf" in error.message
    assert "--weight-path org/model/q4.gguf" in error.hint
    assert hub.fetched() == set()


def test_a_quantisation_is_fetched_alone(hub):
    names = ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "model.safetensors", "config.json")
    hub.repos["org/model"] = dict.fromkeys(names, b"GGUF")
    wanted = Wanted(name="q4_k_m", is_gguf=True)
    folder = Hub.from_environment().fetch_checkpoint(REPO, wanted=wanted)
    assert (folder / "m-Q4_K_M.gguf").exists()
    assert not hub.fetched() & {"m-Q8_0.gguf", "model.safetensors"}


def test_one_gguf_file_in_the_cache_is_not_taken_for_the_only_one(hub):
    hub.repos["org/model"] = {"q4.gguf": b"GGUF", "q8.gguf": b"GGUF"}
    Hub.from_environment().fetch_files(REPO, ["q4.gguf"])
    assert "2 GGUF files" in error_of(fetch).message


def test_files_are_fetched_by_name_and_then_cached(hub):
    hub.repos["org/model"] = {"gguf/a[1].gguf": b"1", "gguf/b.gguf": b"2"}
    names = ["gguf/a[1].gguf"]
    [path] = Hub.from_environment().fetch_files(REPO, names)
    assert path.read_bytes() == b"1"
    hub.requests.clear()
    assert Hub.from_environment().fetch_files(REPO, names) == [path]
    assert hub.requests == []


def test_missing_file_suggests_one_spelled_alike(hub):
    hub.repos["org/model"] = {"model-Q4_K_M.gguf": b"", "README.md": b""}
    hub_here = Hub.from_environment()
    error = error_of(lambda: hub_here.fetch_files(REPO, ["model-q4_k_m.gguf"]))
    assert error.message == "org/model on the Hub has no file model-q4_k_m.gguf."
    assert error.hint == "It has: model-Q4_K_M.gguf."


def test_file_of_a_missing_repository_is_an_error(hub):
    hub_here = Hub.from_environment()
    error = error_of(lambda: hub_here.fetch_files(REPO, ["q4.gguf"]))
    assert "There is no model repository org/model" in error.message


def test_token_of_the_environment_is_sent(model, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch()
    assert model.tokens == {"Bearer hf_secret"}


def test_missing_repository_is_an_error_with_the_next_step(hub):
    error = error_of(fetch)
    assert f"There is no model repository org/model at {hub.url}" in error.message
    assert "HF_TOKEN" in error.hint


def test_missing_revision_is_an_error_that_names_it(model):
    repo = HubRepo(name="org/model", revision="v9")
    error = error_of(lambda: Hub.from_environment().fetch_checkpoint(repo))
    assert "has no revision 'v9'" in error.message


def test_gated_repository_is_an_error_with_the_next_step(model, monkeypatch):
    model.gated.add("org/model")
    error = error_of(fetch)
    assert "org/model is a gated repository" in error.message
    assert f"Accept its terms at {model.url}/org/model, set HF_TOKEN" in error.hint
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "the token in use" in error_of(fetch).hint


def test_name_that_no_repository_can_have_is_an_error(hub):
    repo = HubRepo(name="org/a--b")
    error = error_of(lambda: Hub.from_environment().fetch_checkpoint(repo))
    assert "'org/a--b' cannot be a repository's name" in error.message


def test_offline_and_not_cached_is_an_error_with_the_next_step(model, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = error_of(fetch)
    assert "HF_HUB_OFFLINE is set" in error.message
    assert "Unset HF_HUB_OFFLINE" in error.hint
    assert model.requests == []


def test_offline_and_cached_is_served_from_the_cache(model, monkeypatch):
    model.repos["org/model"].pop("tokenizer.json")
    fetch()
    model.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch() == {"config.json", "model.safetensors"}
    assert model.requests == []


@pytest.fixture
def no_hub(monkeypatch):
    # Port 9 (discard) is closed everywhere.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_no_network_is_an_error_with_the_next_step(model, no_hub):
    error = error_of(fetch)
    assert "not in the cache, and http://127.0.0.1:9 cannot be reached" in error.message
    assert "HF_ENDPOINT" in error.hint


def test_no_network_and_a_usable_cache_is_served_from_it(model, monkeypatch):
    model.repos["org/model"].pop("tokenizer.json")
    fetch()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch() == {"config.json", "model.safetensors"}


def test_failing_hub_is_an_error_with_its_status(model):
    model.status = 503
    assert "503" in error_of(fetch).message


def test_blob_deleted_from_the_cache_is_fetched_again(model):
    folder = Hub.from_environment().fetch_checkpoint(REPO)
    (folder / "model.safetensors").resolve().unlink()
    model.requests.clear()
    assert fetch() == WANTED
    assert model.fetched() == {"model.safetensors"}


def test_progress_counts_bytes_up_to_the_whole(model):
    calls = []
    Hub.from_environment(lambda *call: calls.append(call)).fetch_checkpoint(REPO)
    fractions = [fraction for _, fraction, _ in calls if fraction is not None]
    assert {stage for stage, _, _ in calls} == {"download"}
    assert calls[0] == ("download", None, "looking up org/model")
    assert fractions[-1] == 1
    size = len(model.repos["org/model"]["model.safetensors"])
    assert calls[-1][2] == f"{size} B of {size} B"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a/cache"}, Path("/a/cache")),
        ({"HF_HOME": "/a/home"}, Path("/a/home/hub")),
        ({"HF_HUB_CACHE": "/a/cache", "HF_HOME": "/a/home"}, Path("/a/cache")),
        ({}, None),
    ],
)
def test_cache_is_where_the_environment_says(monkeypatch, variables, expected):
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Hub.from_environment()._cache_dir == expected
