from __future__ import annotations

import pytest

from ferrule.name_pattern import NamePattern


def renamed(stored: str, canonical: str, name: str) -> str | None:
    values = NamePattern(stored).fit(name)
    return None if values is None else NamePattern(canonical).fill(values)


@pytest.mark.parametrize(
    ("stored", "canonical", "name", "expected"),
    [
        ("a.weight", "b.weight", "a.weight", "b.weight"),
        ("blk.{n}.q.weight", "layers.{n}.q.weight", "blk.17.q.weight", "layers.17.q.weight"),
        ("{a}.{b}", "{b}.{a}", "x.y", "y.x"),
        ("module.{rest*}", "{rest*}", "module.model.norm.weight", "model.norm.weight"),
        ("module.{rest*}", "{rest*}", "module.weight", "weight"),
        ("{a*}._orig_mod.{b*}", "{a*}.{b*}", "_orig_mod.x", "x"),
        ("{a*}._orig_mod.{b*}", "{a*}.{b*}", "m.0._orig_mod.x.weight", "m.0.x.weight"),
        ("{a*}._orig_mod.{b*}", "{a*}.{b*}", "m._orig_mod", "m"),
        ("l.{n}.{rest*}", "m.l.{n}.{rest*}", "l.3.a.b", "m.l.3.a.b"),
        ("l.{n}.{rest*}", "m.l.{n}.{rest*}", "l.3", "m.l.3"),
    ],
)
def test_fitting_names_are_renamed(stored, canonical, name, expected):
    assert renamed(stored, canonical, name) == expected


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("a.weight", "a.weight2"),
        ("a.weight", "aXweight"),
        ("a.weight", "x.a.weight"),
        ("blk.{n}.q", "blk.q"),
        ("blk.{n}.q", "blk.1.2.q"),
        ("module.{rest*}", "modules.x"),
        ("{a*}._orig_mod.{b*}", "model.x_orig_mod.y"),
        ("{n}", ""),
        ("{n}.x", ".x"),
    ],
)
def test_other_names_do_not_fit(pattern, name):
    assert NamePattern(pattern).fit(name) is None


def test_a_star_takes_no_component_at_all_with_its_dot():
    pattern = NamePattern("{rest*}.inv_freq")
    assert pattern.fit("inv_freq") == {"{rest*}": ""}
    assert pattern.fit("a.b.inv_freq") == {"{rest*}": "a.b"}
    assert NamePattern("x.{rest*}.y").fill({"{rest*}": ""}) == "x.y"


@pytest.mark.parametrize("text", ["", "a..b", "a.", "layer{n}.weight", "a.{n", "{}", "{N}", "{*}"])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(ValueError, match="is not a name pattern"):
        NamePattern(text)


def test_a_placeholder_cannot_stand_twice():
    with pytest.raises(ValueError, match=r"it has \{n\} twice"):
        NamePattern("a.{n}.b.{n}")


@pytest.mark.parametrize(("stored", "canonical"), [("a.{n}", "b.{m}"), ("a.{n*}", "b.{n}")])
def test_an_unknown_placeholder_on_the_right_is_refused(stored, canonical):
    with pytest.raises(ValueError, match=r"which 'a.* does not have"):
        NamePattern(canonical).check_filled_by(NamePattern(stored))


def test_a_hostile_name_is_matched_in_bounded_time():
    name = ".".join(["_orig_mo"] * 3000)
    assert NamePattern("{a*}._orig_mod.{b*}").fit(name) is None
