"""A step's tokens on their way to the host."""

from __future__ import annotations

import torch

from ferrule.plan import TokenLogprobs
from ferrule.runtime.device_sampling import Described
from ferrule.runtime.pending_tokens import PendingTokens, described_to_host, entries_of, to_host


def described(first, num_rows):
    """Rows that can be told apart, with three alternatives each."""
    rows = torch.arange(first, first + num_rows)
    top = rows[:, None] * 10 + torch.arange(3)
    return Described(logprobs=-rows.float(), ranks=rows + 1, top_ids=top, top_logprobs=-top.float())


def entry(row, num):
    ids = tuple(10 * row + i for i in range(num))
    return TokenLogprobs(-float(row), row + 1, ids, tuple(-float(i) for i in ids))


def test_rows_are_reported_with_as_many_alternatives_as_asked_for():
    found = entries_of(described(0, 5), [3, 0, 4], [2, 3, 0])
    assert found == [entry(3, 2), entry(0, 3), entry(4, 0)]
    assert entries_of(described(0, 5), [], []) == []


def test_a_result_without_descriptions_is_tokens_alone():
    result = PendingTokens(tokens=torch.tensor([5, 2**40]), event=None).result()
    assert result.tokens == [5, 2**40]
    assert (result.logprobs, result.prompt_logprobs) == ({}, {})
    assert PendingTokens(tokens=torch.empty(0, dtype=torch.int64), event=None).result().tokens == []


def test_only_samples_that_asked_are_described():
    # Descriptions of rows that pad a graph come along and are of nobody.
    pending = PendingTokens(
        tokens=torch.tensor([5, 6, 7]),
        event=None,
        described=described(0, 8),
        wanted={2: 1, 0: 3},
    )
    result = pending.result()
    assert result.tokens == [5, 6, 7]
    assert result.logprobs == {2: entry(2, 1), 0: entry(0, 3)}


def test_parts_of_a_prompt_are_joined_in_order():
    pending = PendingTokens(
        tokens=torch.tensor([5]),
        event=None,
        prompts={1: ([described(0, 2), described(7, 3)], 2), 4: ([described(3, 1)], 0)},
    )
    expected = {1: [entry(row, 2) for row in (0, 1, 7, 8, 9)], 4: [entry(3, 0)]}
    assert pending.result().prompt_logprobs == expected


class Device:
    """An event behind copies that are done when it is waited for, and not before."""

    def __init__(self, copies):
        self.copies = copies

    def synchronize(self):
        for target, values in self.copies:
            target.copy_(torch.tensor(values))


def test_nothing_is_read_before_the_device_has_written_it():
    tokens, late = torch.tensor([-1, -1]), described(0, 2)
    device = Device([(tokens, [8, 9]), (late.ranks, [70, 71])])
    pending = PendingTokens(tokens=tokens, event=device, described=late, wanted={0: 0, 1: 0})
    result = pending.result()
    assert result.tokens == [8, 9]
    assert [result.logprobs[i].rank for i in (0, 1)] == [70, 71]


def test_what_a_later_step_overwrites_is_kept():
    tokens, source = torch.tensor([5, 6]), described(0, 2)
    kept, copied = to_host(tokens), described_to_host(source)
    for tensor in (tokens, source.logprobs, source.ranks, source.top_ids, source.top_logprobs):
        tensor.fill_(99)
    assert kept.tolist() == [5, 6]
    assert entries_of(copied, [0, 1], [3, 3]) == [entry(0, 3), entry(1, 3)]
