"""docs/reference/http.md against the schema, the routes, the errors and the metrics."""

from __future__ import annotations

import re

import msgspec
import pytest

from ferrule.engine.messages import Stats
from ferrule.errors import EngineDeadError, EngineStartingError
from ferrule.frontend.validation import MAX_CHOICES, MAX_LOGPROBS, MAX_STOP_STRINGS, MAX_STOP_TOKENS
from ferrule.server import app
from ferrule.server.chat_schema import ChatRequest
from ferrule.server.completions_schema import CompletionRequest
from ferrule.server.errors import _CODES, ServerStoppingError, error_body
from ferrule.server.metrics import Metrics
from ferrule.server.parse import UNSUPPORTED


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "reference" / "http.md").read_text()


def section(page, heading):
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text):
    return set(re.findall(r"^\| `(\w+)` \|", text, re.M))


def test_every_field_has_a_row(page):
    common = rows(section(page, "Fields of both completions"))
    chat = common | rows(section(page, "Fields of chat"))
    completions = common | rows(section(page, "Fields of text completions"))
    assert chat == set(ChatRequest.__struct_fields__)
    assert completions == set(CompletionRequest.__struct_fields__)


def test_every_refused_field_is_listed(page):
    listed = set(re.findall(r"`(\w+)`", section(page, "Fields that are refused")))
    assert listed >= UNSUPPORTED.keys()


def test_limits_are_those_that_are_checked(page):
    fields = section(page, "Fields of both completions")
    assert f"| `n` | 1 to {MAX_CHOICES} |" in fields
    assert f"| string or up to {MAX_STOP_STRINGS} of them |" in fields
    assert f"| up to {MAX_STOP_TOKENS} ids |" in fields
    assert f"| `top_logprobs` | 0 to {MAX_LOGPROBS} |" in page


def test_every_route_is_listed(page):
    handlers = (handler for handler in vars(app).values() if hasattr(handler, "http_methods"))
    for handler in handlers:
        for path in handler.paths:
            method = next(iter(handler.http_methods - {"OPTIONS"}))
            shown = re.sub(r"\{\w+:path\}", "{id}", path)
            assert f"| `{method} {shown}` |" in page


def test_every_metric_is_listed(page):
    text = Metrics("m", Stats).text().decode()
    names = set(re.findall(r"^# TYPE ferrule:(\w+?)(?:_total)? ", text, re.M))
    listed = set(re.findall(r"`(\w+)`", section(page, "Metrics")))
    assert len(names) > 10
    assert names <= listed


def test_every_error_code_is_listed(page, root):
    package = root / "core" / "ferrule"
    files = [f for room in ("server", "frontend", "engine") for f in (package / room).rglob("*.py")]
    codes = set(re.findall(r"code=\"(\w+)\"", "\n".join(file.read_text() for file in files)))
    codes |= {_code(kind("")) for kind in (EngineStartingError, EngineDeadError)}
    codes |= {_code(ServerStoppingError("")), *_CODES.values()}
    assert len(codes) > 6
    assert codes <= set(re.findall(r"`(\w+)`", section(page, "Errors")))


def _code(error):
    return error_body(error).error.code


def test_the_example_error_has_the_envelope(page):
    (example,) = re.findall(r"```json\n(.*?)```", section(page, "Errors"), re.S)
    assert set(msgspec.json.decode(example)["error"]) == {"message", "type", "param", "code"}
