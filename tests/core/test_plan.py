"""The rule that the scheduler keeps to and the runner prepares for, by its figures."""

from __future__ import annotations

import pytest

from ferrule.plan import step_tokens


@pytest.mark.parametrize(
    ("num_decodes", "tokens"),
    [
        (0, 2048),
        (1, 512),
        (102, 512),
        (103, 768),
        (153, 768),
        (154, 1024),
        (205, 1280),
        (256, 1280),
    ],
)
def test_tokens_of_a_step_beside_so_many_streams(num_decodes, tokens):
    assert step_tokens(num_decodes, 2048) == tokens


@pytest.mark.parametrize("most", [1, 48, 511, 600])
def test_no_step_has_more_than_the_most(most):
    assert {step_tokens(num_decodes, most) for num_decodes in range(300)} <= {most, 512}
    assert all(step_tokens(num_decodes, most) <= most for num_decodes in range(300))
