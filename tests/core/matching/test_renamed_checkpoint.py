from __future__ import annotations

import numpy as np
import pytest

from ferrule import Permute, Split
from ferrule.errors import LoadError, PluginError
from ferrule.matching import match


def test_rows_are_read_from_where_they_are_stored(checkpoint, make_plugins, toy, dialect):
    found = match(checkpoint, make_plugins([dialect(), toy]))
    rows = found.read("model.1.q.weight")
    assert (rows.shape, rows.dtype) == ((8, 8), np.uint8)
    expected = np.arange(16, dtype="<f4").reshape(8, 2)
    assert np.array_equal(rows.view("<f4"), expected)
    assert rows.base is not None  # a view of the mapped file
    assert rows.flags.writeable


def test_each_element_of_a_vector_is_a_row(make_checkpoint, make_plugins, toy, dialect):
    stored = make_checkpoint({"emb.weight": (5,), "scalar": ()}, {"model_type": "toy"})
    names = {"emb.weight": "n", "scalar": "s"}
    found = match(stored, make_plugins([dialect(names=names), toy]))
    assert found.read("n").shape == (5, 4)
    assert found.read("s").shape == (1, 4)


def test_two_tensors_that_get_one_name_are_an_error_naming_both(
    make_checkpoint, make_plugins, toy, dialect, prefixed, tensors
):
    stored = make_checkpoint({**tensors, "a.emb.weight": (4, 2)}, {"model_type": "toy"})
    with pytest.raises(
        LoadError, match=r"emb\.weight and a\.emb\.weight \(weight adapter 'no-a'\)"
    ):
        match(stored, make_plugins([dialect(), toy, prefixed("a")]))


@pytest.fixture
def permuted(make_plugins, toy, dialect):
    """Matches under a dialect that permutes q."""
    rows = {"model.{n}.q.weight": Permute(heads="heads")}
    return lambda stored: match(stored, make_plugins([dialect(rows=rows), toy]))


def test_permuted_rows_are_read_in_canonical_order(checkpoint, permuted):
    found = permuted(checkpoint)
    first = found.read("model.0.q.weight").view("<f4")[:, 0] / 2
    assert first.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert found.checkpoint.tensors["model.0.q.weight"].shape == (8, 2)
    flat = found.checkpoint.read("model.0.q.weight")
    assert np.array_equal(flat, found.read("model.0.q.weight").reshape(-1))


def test_other_tensors_stay(checkpoint, permuted):
    found = permuted(checkpoint)
    assert found.sources["model.emb.weight"].rows is None


def test_rows_that_are_no_whole_heads_are_an_error(make_checkpoint, permuted):
    stored = make_checkpoint(
        {"emb.weight": (4, 2), "blocks.0.q.weight": (6, 2)}, {"model_type": "toy", "heads": 2}
    )
    with pytest.raises(LoadError, match=r"blocks\.0\.q\.weight of shape \[6, 2\].*2 heads"):
        permuted(stored)


def test_a_config_without_the_number_of_heads_is_an_error(make_checkpoint, tensors, permuted):
    stored = make_checkpoint(tensors, {"model_type": "toy"})
    with pytest.raises(LoadError, match="the config's heads is None"):
        permuted(stored)


@pytest.fixture
def split(make_plugins, toy, dialect):
    """Matches under a dialect that splits q into three."""

    def matched(stored, groups=None, sizes=(4, 2, 2)):
        parts = dict(zip(("m.{n}.q", "m.{n}.k", "m.{n}.v"), sizes, strict=True))
        rows = {"model.{n}.q.weight": Split(into=lambda config: parts, groups=groups)}
        return match(stored, make_plugins([dialect(rows=rows), toy]))

    return matched


def test_split_parts_have_their_rows_and_shapes(checkpoint, split):
    found = split(checkpoint)
    parts = {name: found.read(name).view("<f4")[:, 0] / 2 for name in ("m.1.q", "m.1.k")}
    assert parts["m.1.q"].tolist() == [0, 1, 2, 3]
    assert parts["m.1.k"].tolist() == [4, 5]
    info = found.checkpoint.tensors["m.1.v"]
    whole = checkpoint.tensors["blocks.1.q.weight"]
    assert (info.shape, info.nbytes, info.format) == ((2, 2), 16, "F32")
    assert info.offset == whole.offset + 6 * 8
    assert found.sources["m.1.v"].stored == "blocks.1.q.weight"


def test_grouped_parts_are_collected_from_every_group(checkpoint, split):
    found = split(checkpoint, groups="heads")
    rows = {part: found.read(f"m.0.{part}").view("<f4")[:, 0] / 2 for part in "qkv"}
    assert [rows[part].tolist() for part in "qkv"] == [[0, 1, 4, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
    ("groups", "sizes", "message"),
    [(None, (4, 2, 1), "8 rows are not the 4 . 2 . 1"), ("heads", (5, 2, 1), "into 2 groups")],
)
def test_parts_that_do_not_add_up_are_an_error(checkpoint, groups, sizes, message, split):
    with pytest.raises(LoadError, match=rf"blocks\.0\.q\.weight of shape .*{message}"):
        split(checkpoint, groups, sizes)


@pytest.mark.parametrize(
    ("groups", "embedding", "query"),
    [(None, [2, 3, 4, 5], [6, 8, 7, 9]), ("groups", [1, 2, 3, 4], [6, 8, 7, 9])],
)
def test_operations_of_several_adapters_add_up(
    make_checkpoint, make_plugins, toy, dialect, wrapper, groups, embedding, query
):
    """One wrapper leaves rows out, another cuts the rest in two, the dialect permutes a half."""
    leave_out = wrapper(
        "leave-out",
        lambda stored: "all" in stored.tensors,
        {"all": "all"},
        rows={"all": Split(into=lambda config: {"unused": 2, "fused": 8}, groups=groups)},
    )
    cut = wrapper(
        "cut",
        lambda stored: "fused" in stored.tensors,
        {"fused": "fused"},
        rows={"fused": Split(into=lambda config: {"emb.weight": 4, "blocks.0.q.weight": 4})},
    )
    stored = make_checkpoint({"all": (10, 3)}, {"model_type": "toy", "heads": 1, "groups": 2})
    permute = dialect(rows={"model.{n}.q.weight": Permute(heads="heads")})
    found = match(stored, make_plugins([permute, toy, cut, leave_out]))
    rows = {name: found.read(name).view("<f4")[:, 0] / 3 for name in found.checkpoint.tensors}
    assert rows["model.emb.weight"].tolist() == embedding
    assert rows["model.0.q.weight"].tolist() == query


def test_a_part_with_a_placeholder_of_its_own_is_a_plugin_error(
    checkpoint, make_plugins, toy, dialect
):
    split = Split(into=lambda config: {"m.{x}": 8})
    plugins = make_plugins([dialect(rows={"model.{n}.q.weight": split}), toy])
    with pytest.raises(PluginError, match=r"'plain' of dist-0 1\.0 failed in names and rows"):
        match(checkpoint, plugins)
