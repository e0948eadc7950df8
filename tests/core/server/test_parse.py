from __future__ import annotations

import contextlib
import json

import fake_server
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule.errors import RequestError
from ferrule.server.app import create_service
from ferrule.server.chat import _prepare as prepare_chat
from ferrule.server.chat_schema import ChatRequest
from ferrule.server.completions import _prepare as prepare_completion
from ferrule.server.completions_schema import CompletionRequest
from ferrule.server.parse import UNSUPPORTED, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
    max_size=3),
    max_leaves=5,
)  # fmt: skip


def test_struct_and_plain_json_come_back():
    request, plain = parse(
        b'{"model": "m", "prompt": "x", "logit_bias": {"5": 1}, "new": 1}', CompletionRequest
    )
    assert request.logit_bias == {5: 1.0}
    assert plain["new"] == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": 5, "prompt": "x"}, "model"),
        ({"model": "m", "prompt": [[1, "x"]]}, "prompt[0][1]"),
        ({"model": "m", "prompt": "x", "stream_options": {"include_usage": 1}},
         "stream_options.include_usage"),
        ({"model": "m", "prompt": "x", "logit_bias": {"x": 1}}, "logit_bias"),
        ({"model": "m", "prompt": "x", "logit_bias": {"5": "y"}}, "logit_bias[...]"),
    ],
)  # fmt: skip
def test_wrong_field_is_named_by_its_path(body, param):
    with pytest.raises(RequestError) as caught:
        parse(json.dumps(body).encode(), CompletionRequest)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"model": "m", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}"]
)
def test_deep_nesting_is_the_clients_mistake(body):
    with pytest.raises(RequestError):
        parse(body, ChatRequest)


@pytest.mark.parametrize("field", sorted(UNSUPPORTED))
def test_unserved_field_is_refused_only_when_it_asks_for_something(field):
    body = {"model": "m", "prompt": "x"}
    for nothing in UNSUPPORTED[field]:
        parse(json.dumps(body | {field: nothing}).encode(), CompletionRequest)
    with pytest.raises(RequestError, match=field) as caught:
        parse(json.dumps(body | {field: "something"}).encode(), CompletionRequest)
    assert (caught.value.param, caught.value.code) == (field, "unsupported_parameter")


@given(data=st.data())
def test_whatever_a_field_holds_a_request_is_taken_or_refused(shared_service, data):
    kind, prepare = data.draw(
        st.sampled_from([(ChatRequest, prepare_chat), (CompletionRequest, prepare_completion)])
    )
    fields = st.sampled_from([*kind.__struct_fields__, *UNSUPPORTED])
    body = {"model": "fake", "prompt": "x", "messages": [{"role": "user", "content": "hi"}]}
    body |= data.draw(st.dictionaries(fields, JSON, max_size=3))
    with contextlib.suppress(RequestError):
        _, job, *_ = prepare(shared_service, msgspec.json.encode(body))
        assert len(job.completions) >= 1


@pytest.fixture(scope="module")
def shared_service():
    return create_service(fake_server.make_model(), fake_server.FakeEngine())
