"""The rule that the scheduler keeps to and the runner prepares for, by its figures."""

from __future__ import annotations

import pytest

from ferrule.plan import step_tokens


@pytest.mark.parametrize(
    ("num_decodes", "num_sequences", "tokens"),
    [
        (0, 1, 2048),
        (0, 256, 2048),
        (1, 1, 512),
        (64, 64, 512),
        (1, 65, 768),
        (65, 65, 768),
        (96, 128, 1024),
        (1, 256, 2048),
        (256, 256, 2048),
    ],
)
def test_tokens_of_a_step_beside_so_many_streams(num_decodes, num_sequences, tokens):
    assert step_tokens(num_decodes, num_sequences, 2048) == tokens


@pytest.mark.parametrize("most", [1, 48, 511, 600])
def test_no_step_has_more_than_the_most(most):
    found = {step_tokens(count, count, most) for count in range(300)}
    assert found <= {most, 512}
    assert max(found) <= most
