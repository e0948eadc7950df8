from __future__ import annotations

import pytest

from ferrule.errors import MatchError, PluginError
from ferrule.matching import match


def test_wrappers_peel_off_in_any_nesting(
    make_checkpoint, make_plugins, toy, dialect, prefixed, tensors
):
    nested = {f"a.b.a.{name}": shape for name, shape in tensors.items()}
    stored = make_checkpoint(nested, {"model_type": "toy"})
    plugins = make_plugins([dialect(), toy, prefixed("b"), prefixed("a"), prefixed("unused")])
    found = match(stored, plugins)
    assert [adapter.name for adapter in found.adapters] == ["no-a", "no-b", "no-a", "plain"]
    assert found.sources["model.0.q.weight"].stored == "a.b.a.blocks.0.q.weight"
    assert found.notes[0] == "peeled off: no-a (dist-0 1.0)"


def test_a_wrapper_may_change_the_config_alone(
    make_checkpoint, make_plugins, toy, dialect, wrapper, tensors
):
    promote = wrapper(
        "promote",
        lambda checkpoint: "inner" in checkpoint.config,
        {},
        config=lambda checkpoint: checkpoint.config["inner"],
    )
    stored = make_checkpoint(tensors, {"inner": {"inner": {"model_type": "toy"}}})
    found = match(stored, make_plugins([dialect(), toy, promote]))
    assert found.checkpoint.config == {"model_type": "toy"}
    assert [adapter.name for adapter in found.adapters] == ["promote", "promote", "plain"]


@pytest.mark.parametrize("names", [{}, {"emb.weight": "emb.weight"}])
def test_a_wrapper_that_changes_nothing_is_an_error(
    checkpoint, make_plugins, toy, names, dialect, wrapper
):
    idle = wrapper("idle", lambda checkpoint: True, names)
    with pytest.raises(PluginError, match=r"'idle' of dist-1 1\.0 goes on matching"):
        match(checkpoint, make_plugins([dialect(), toy], [idle]))


def test_wrappers_that_undo_each_other_are_an_error(
    checkpoint, make_plugins, toy, dialect, wrapper
):
    def swap(name, old, new):
        return wrapper(
            name, lambda c: f"{old}.weight" in c.tensors, {f"{old}.weight": f"{new}.weight"}
        )

    plugins = make_plugins([dialect(), toy, swap("there", "emb", "x"), swap("back", "x", "emb")])
    with pytest.raises(PluginError, match="goes on matching"):
        match(checkpoint, plugins)


def test_two_fitting_dialects_are_an_error_with_the_flag(checkpoint, make_plugins, toy, dialect):
    plugins = make_plugins([dialect("one"), toy], [dialect("two")])
    with pytest.raises(MatchError) as error:
        match(checkpoint, plugins)
    text = str(error.value)
    assert "2 ways to read the/model fit" in text
    assert "weight adapter one (dist-0 1.0), architecture toy (dist-0 1.0)" in text
    assert "two (dist-1 1.0)" in text
    assert "--weight-adapter one | two" in text
    assert "--architecture" not in text
    assert match(checkpoint, plugins, weight_adapter="two").adapters[0].name == "two"


def test_two_fitting_architectures_are_an_error_with_the_flag(
    checkpoint, make_plugins, toy, make_architecture, dialect
):
    plugins = make_plugins([dialect(), toy], [make_architecture("toy2", "toy")])
    with pytest.raises(MatchError, match=r"--architecture toy \| toy2"):
        match(checkpoint, plugins)
    assert match(checkpoint, plugins, architecture="toy2").architecture.name == "toy2"


def test_a_second_dialect_counts_only_where_an_architecture_takes_its_config(
    checkpoint, make_plugins, toy, dialect
):
    other = dialect("other", config=lambda checkpoint: {"model_type": "unheard-of"})
    found = match(checkpoint, make_plugins([dialect(), toy, other]))
    assert found.adapters[0].name == "plain"


def test_order_of_installation_decides_nothing(
    make_checkpoint, make_plugins, toy, dialect, wrapper, prefixed, tensors
):
    stored = make_checkpoint(
        {f"b.a.{name}": shape for name, shape in tensors.items()}, {"model_type": "toy"}
    )
    strip = wrapper(
        "first",
        lambda checkpoint: any(name.startswith("b.") for name in checkpoint.tensors),
        {"b.a.{rest*}": "{rest*}"},
    )
    offers = [[strip], [prefixed("b")], [prefixed("a")], [dialect(), toy]]
    chains = {
        tuple(a.name for a in match(stored, make_plugins(*order)).adapters)
        for order in (offers, offers[::-1])
    }
    assert chains == {("first", "plain")}
