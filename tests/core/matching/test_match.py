from __future__ import annotations

import pytest

from ferrule.errors import ConfigError, LoadError, MatchError, PluginError
from ferrule.matching import match


def test_the_one_fitting_pair_is_chosen(checkpoint, make_plugins, toy, make_architecture, dialect):
    never = dialect("never", matches=lambda checkpoint: False)
    plugins = make_plugins([dialect(), toy], [never, make_architecture("other")])
    found = match(checkpoint, plugins)
    assert [adapter.name for adapter in found.adapters] == ["plain"]
    assert found.architecture is toy
    assert list(found.checkpoint.tensors) == [
        "model.emb.weight",
        "model.0.q.weight",
        "model.1.q.weight",
    ]
    assert {name: source.stored for name, source in found.sources.items()} == {
        "model.emb.weight": "emb.weight",
        "model.0.q.weight": "blocks.0.q.weight",
        "model.1.q.weight": "blocks.1.q.weight",
    }
    assert found.config.num_layers == 8
    assert found.notes == ("a note",)


def test_tensors_that_are_left_out_are_reported(
    make_checkpoint, make_plugins, toy, dialect, prefixed, tensors
):
    stored = make_checkpoint(
        {"a.emb.weight": (4, 2), "a.junk.1": (1,), "a.junk.2": (1,)}, {"model_type": "toy"}
    )
    names = {"emb.weight": "model.emb.weight", "junk.{n}": None}
    found = match(stored, make_plugins([dialect(names=names), toy, prefixed("a")]))
    assert found.ignored == {"a.junk.1": "plain: junk.{n}", "a.junk.2": "plain: junk.{n}"}
    assert "2 tensors left out by plain: junk.{n}" in found.notes
    assert list(found.checkpoint.tensors) == ["model.emb.weight"]


def test_names_without_a_pattern_stay_for_loading_to_report(
    make_checkpoint, make_plugins, toy, dialect, tensors
):
    stored = make_checkpoint({**tensors, "strange.weight": (1,)}, {"model_type": "toy"})
    found = match(stored, make_plugins([dialect(), toy]))
    assert found.checkpoint.unknown == ("strange.weight",)
    assert "strange.weight" in found.checkpoint.tensors


def test_a_canonical_name_in_a_file_of_another_dialect_is_an_error(
    make_checkpoint, make_plugins, toy, dialect, tensors
):
    stored = make_checkpoint({**tensors, "model.7.q.weight": (8, 2)}, {"model_type": "toy"})
    with pytest.raises(LoadError, match=r"bear canonical names already: model\.7\.q\.weight"):
        match(stored, make_plugins([dialect(), toy]))


def test_the_configs_that_adapters_make_reach_the_architecture(
    checkpoint, make_plugins, toy, dialect
):
    better = dialect(config=lambda checkpoint: {"model_type": "toy", "layers": 3})
    stored = checkpoint
    found = match(stored, make_plugins([better, toy]))
    assert found.checkpoint.config == {"model_type": "toy", "layers": 3}


def test_asked_names_overrule_what_matches(make_checkpoint, make_plugins, toy, dialect, tensors):
    stored = make_checkpoint(tensors, {"model_type": "unheard-of"})
    never = dialect("never", matches=lambda checkpoint: False)
    plugins = make_plugins([dialect(), never, toy])
    found = match(stored, plugins, architecture="toy", weight_adapter="never")
    assert found.adapters[-1] is never
    assert found.architecture is toy


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"architecture": "toi"},
            r"--architecture toi: not installed. Installed: toy \(dist-0 1.0\).*nearest is 'toy'",
        ),
        (
            {"weight_adapter": "plane"},
            r"--weight-adapter plane: not installed. Installed: plain \(.*nearest is 'plain'",
        ),
        ({"weight_adapter": "no-a"}, r"applied by itself.*choose from: plain"),
    ],
)
def test_asking_for_what_cannot_be_had_is_an_error(
    checkpoint, make_plugins, toy, flags, message, dialect, prefixed
):
    with pytest.raises(MatchError, match=message):
        match(checkpoint, make_plugins([dialect(), toy, prefixed("a")]), **flags)


@pytest.mark.parametrize("function", ["matches", "config"])
def test_an_adapter_that_raises_is_named_with_its_distribution(
    checkpoint, make_plugins, toy, function, dialect
):
    broken = dialect("broken", **{function: lambda checkpoint: {}["no-such-key"]})
    with pytest.raises(
        PluginError, match=rf"'broken' of dist-1 1\.0 failed in {function}: KeyError"
    ):
        match(checkpoint, make_plugins([toy], [broken]))


def test_an_architecture_that_raises_is_named_with_its_distribution(
    checkpoint, make_plugins, make_architecture, dialect
):
    broken = make_architecture("toy", configure=lambda checkpoint: 1 / 0)
    with pytest.raises(PluginError, match=r"failed in configure: ZeroDivisionError"):
        match(checkpoint, make_plugins([dialect(), broken]))


def test_errors_meant_for_people_pass(checkpoint, make_plugins, make_architecture, dialect):
    def refuse(checkpoint):
        raise ConfigError("rope_type is 'spiral'")

    picky = make_architecture("toy", configure=refuse)
    with pytest.raises(ConfigError, match="spiral"):
        match(checkpoint, make_plugins([dialect(), picky]))
