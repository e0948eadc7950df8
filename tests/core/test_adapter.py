from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ferrule import Permute, Split, WeightAdapter

# tests/data/smollm2.py made the golden directories from the GGUF file, independently of ferrule.
_SPEC = importlib.util.spec_from_file_location(
    "smollm2_data", Path(__file__).parents[1] / "data" / "smollm2.py"
)
smollm2 = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(smollm2)


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 2), (9, 64), (3, 64), (2, 6)])
def test_f6_permute_is_the_references(heads, head_dim):
    weight = np.random.default_rng(0).normal(size=(heads * head_dim, 5))
    index = Permute(heads="n").index(len(weight), {"n": heads})
    assert np.array_equal(weight[index], smollm2.unpermute(weight, heads))


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 2), (4, 8)])
def test_f6_permute_undoes_llama_cpps_converter(heads, head_dim):
    rows = np.arange(heads * head_dim)
    converted = rows.reshape(heads, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)
    assert np.array_equal(converted[Permute(heads="n").index(len(rows), {"n": heads})], rows)


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        (6, {"n": 4}, r"6 rows are not 4 heads \(n\)"),
        (6, {"n": 2}, "of rotary pairs"),
        (6, {}, "the config's n is None"),
        (6, {"n": 0}, "the config's n is 0"),
        (6, {"n": "3"}, "the config's n is '3'"),
    ],
)
def test_permute_refuses_rows_that_are_no_rotary_pairs(rows, config, message):
    with pytest.raises(ValueError, match=message):
        Permute(heads="n").index(rows, config)


def test_f2_split_parts_follow_each_other():
    parts = Split(into=lambda config: {"q": config["rows"], "k": 2}).parts("", 5, {"rows": 3})
    assert parts == {"q": slice(0, 3), "k": slice(3, 5)}


def test_f2_split_by_groups_is_megatrons_layout():
    """Rows ``[groups, q per kv + 2, head_dim]``, as grouped-query checkpoints fuse them."""
    groups, per_kv, head_dim = 2, 3, 4
    rows = np.arange(groups * (per_kv + 2) * head_dim).reshape(groups, per_kv + 2, head_dim)
    sizes = {"q": groups * per_kv * head_dim, "k": groups * head_dim, "v": groups * head_dim}
    parts = Split(into=lambda config: sizes, groups="g").parts("", rows.size, {"g": groups})
    assert np.array_equal(parts["q"], rows[:, :per_kv].reshape(-1))
    assert np.array_equal(parts["k"], rows[:, per_kv].reshape(-1))
    assert np.array_equal(parts["v"], rows[:, per_kv + 1].reshape(-1))


@pytest.mark.parametrize(
    "changes",
    [
        {"names": {"layer{n}.x": None}},
        {"names": {"a.{n}": "b.{m}"}},
        {"names": {"a.{n*}": "b.{n}"}},
        {"names": {"a": "b..c"}},
        {"names": {}, "rows": {"a.{n": Permute(heads="n")}},
    ],
)
def test_a_malformed_pattern_is_refused_where_it_is_written(changes):
    with pytest.raises(ValueError, match=r"is not a name pattern|does not have"):
        WeightAdapter(name="mine", matches=bool, **changes)
