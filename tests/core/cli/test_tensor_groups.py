from __future__ import annotations

from ferrule.cli.tensor_groups import group_tensors, ranges
from ferrule.inspection import Destination


def tensor(name, *, stored=None, module=None, format="BF16", shape=(4, 4)):
    return Destination(
        stored=stored or name,
        name=name,
        module=module,
        shape=shape,
        format=format,
        rows="",
        nbytes=32,
        file="f",
    )


def layer(number, part="mlp.up_proj", **settings):
    return tensor(
        f"model.layers.{number}.{part}.weight",
        stored=f"blk.{number}.ffn_up.weight",
        module=f"model.layers.{number}.mlp.gate_up_proj",
        **settings,
    )


def test_layers_that_are_alike_become_one_group():
    (group,) = group_tensors([layer(0), layer(2), layer(1)])
    assert (group.section, group.stored_section) == ("model.layers.N", "blk.N")
    assert (group.name, group.stored) == ("mlp.up_proj.weight", "ffn_up.weight")
    assert group.module == "mlp.gate_up_proj"
    assert (group.numbers, group.count) == ("0-2", 3)


def test_another_format_or_shape_is_another_group():
    groups = group_tensors(
        [layer(0), layer(1, format="Q6_K"), layer(2), layer(3, shape=(8, 4)), layer(4)]
    )
    assert [(group.format, group.shape, group.numbers) for group in groups] == [
        ("BF16", (4, 4), "0,2,4"),
        ("Q6_K", (4, 4), "1"),
        ("BF16", (8, 4), "3"),
    ]


def test_names_without_numbers_come_first_and_stay_whole():
    groups = group_tensors([layer(0), tensor("lm_head.weight", module="lm_head")])
    assert [(group.section, group.name, group.numbers) for group in groups] == [
        ("", "lm_head.weight", ""),
        ("model.layers.N", "mlp.up_proj.weight", "0"),
    ]


def test_a_second_number_is_shown_as_its_range():
    experts = [
        tensor(f"layers.{n}.experts.{m}.up.weight", module=f"layers.{n}.experts")
        for n in range(3)
        for m in range(8)
    ]
    (group,) = group_tensors(experts)
    assert (group.name, group.module, group.numbers) == ("experts.0-7.up.weight", "experts", "0-2")


def test_stored_names_with_other_numbers_stay_apart():
    shifted = [
        tensor(f"model.layers.{n}.up.weight", stored=f"h.{n + 1}.up.weight", module="up")
        for n in range(2)
    ]
    groups = group_tensors(shifted)
    assert [(group.stored, group.numbers) for group in groups] == [
        ("h.1.up.weight", "0"),
        ("h.2.up.weight", "1"),
    ]


def test_what_nothing_takes_is_a_group_too():
    (group,) = group_tensors([tensor("model.layers.0.extra", module=None)])
    assert group.module is None


def test_numbers_are_told_as_ranges():
    assert ranges([5, 0, 1, 2, 7, 8]) == "0-2,5,7-8"
    assert ranges([]) == ""
