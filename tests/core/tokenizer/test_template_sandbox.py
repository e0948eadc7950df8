import json
import threading
import time
from datetime import datetime

import jinja2
import pytest

from ferrule.errors import RequestError, TokenizerError
from ferrule.tokenizer.chat_template import ChatTemplate
from ferrule.tokenizer.template_sandbox import TemplateLimitError, TemplateSandbox

MESSAGES = [{"role": "user", "content": "hi"}]


def run(source, **variables):
    sandbox = TemplateSandbox(max_seconds=0.3, max_characters=10_000)
    return sandbox.run(sandbox.load(source), variables)


BOMBS = {
    "silent loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "loops within a block": "{% set x %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% if false %}x{% endif %}{% endfor %}{% endfor %}{% endset %}",
    "filtered loop": "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}"
    "{% endfor %}",
    "recursive macro": "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for n in [60] recursive %}{% if n > 0 %}{{ loop([n - 1]) }}"
    "{{ loop([n - 1]) }}{% endif %}{% endfor %}",
    "long output": "{% for a in range(9999) %}{{ 'xxxxxxxxxx' }}{% endfor %}",
    "long block": "{% set x %}{% for a in range(9999) %}{{ 'xxxxxxxxxx' }}{% endfor %}{% endset %}",
    "product": "{{ ('x' * 10**10)|length }}",
    "product from the left": "{{ (10**10 * 'x')|length }}",
    "list product": "{{ ([1] * 10**10)|length }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "power of a loop": "{% set ns = namespace(n=10) %}{% for a in range(99) %}"
    "{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "doubled by +": "{% set ns = namespace(x='x') %}{% for a in range(60) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubled by ~": "{% set ns = namespace(x='x') %}{% for a in range(60) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubled by a block": "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}"
    "{% set ns = namespace(x='x') %}{% for a in range(60) %}{% set ns.x = d(ns.x) %}{% endfor %}",
}


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS)
def test_bomb_is_stopped_within_its_time(source):
    began = time.monotonic()
    with pytest.raises(TemplateLimitError):
        run(source)
    assert time.monotonic() - began < 20


def test_range_is_limited():
    with pytest.raises(OverflowError, match="Range too big"):
        run("{% for a in range(10**9) %}{% endfor %}")


ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "attr filter": "{{ (''|attr('__class__')).x }}",
    "globals of a function": "{{ raise_exception.__globals__.os }}",
    "globals of a method": "{{ messages.append.__self__ }}",
    "format": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "format_map": "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "changing a list": "{{ messages.append(1) }}",
    "changing a dict": "{{ messages[0].update(role='x') }}",
    "namespace at birth": "{% set ns = namespace(__class__=1) %}",
    "namespace by mapping": "{% set ns = namespace({'_x': 1}) %}",
    "namespace later": "{% set ns = namespace() %}{% set ns._Namespace__attrs = 1 %}",
}


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES)
def test_python_cannot_be_reached_and_values_not_changed(source):
    messages = [dict(MESSAGES[0])]
    with pytest.raises(jinja2.TemplateError):
        run(source, messages=messages)
    assert messages == MESSAGES


@pytest.mark.parametrize("source", ["{% include 'x' %}", "{% import '/etc/passwd' as x %}"])
def test_no_other_file_can_be_read(source):
    with pytest.raises(TypeError, match="no loader"):
        run(source)


def test_json_is_pythons_without_html_escapes():
    value = {"b": "<&'\">é", "a": [1, None, True]}
    assert run("{{ x|tojson }}", x=value) == json.dumps(value, ensure_ascii=False)
    assert run("{{ x|tojson(indent=2, sort_keys=true) }}", x=value) == json.dumps(
        value, ensure_ascii=False, indent=2, sort_keys=True
    )
    assert run("{{ x|tojson(separators=(',', ':')) }}", x=[1, 2]) == "[1,2]"


def test_json_text_can_be_read():
    assert run("{{ ('[1, {\"a\": 2}]'|from_json)[1].a }}") == "2"


def test_time_of_day_is_formatted():
    assert run("{{ strftime_now('%Y') }}") in {str(datetime.now().year + n) for n in (-1, 0)}


def test_generation_tag_renders_its_body_and_keeps_its_names():
    assert run("a{% generation %}{% set x = 1 %}b{{ x }}{% endgeneration %}{{ x }}c") == "ab1c"


def test_namespace_takes_a_variable_named_self():
    assert run("{% set ns = namespace(self=1) %}{{ ns.self }}") == "1"


def test_sandbox_serves_several_threads_at_once():
    sandbox = TemplateSandbox(max_seconds=5, max_characters=10_000)
    template = sandbox.load("{% for a in range(200) %}{{ x }}{% endfor %}")
    texts: dict[int, str] = {}

    def render(n):
        texts[n] = sandbox.run(template, {"x": n})

    threads = [threading.Thread(target=render, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {n: str(n) * 200 for n in range(8)}


def test_stopped_template_is_not_the_requests_mistake():
    template = ChatTemplate("{% for a in range(9999) %}xx{% endfor %}", {}, max_characters=1000)
    with pytest.raises(
        TokenizerError, match="was stopped: it made a text of more than 1000 characters"
    ):
        template.render(MESSAGES)
    slow = ChatTemplate(BOMBS["silent loops"], {}, max_seconds=0.2)
    with pytest.raises(TokenizerError, match=r"it took more than 0\.2 seconds"):
        slow.render(MESSAGES)
    escape = ChatTemplate("\n{{ ''.__class__.x }}", {})
    with pytest.raises((TokenizerError, RequestError), match="line 2 of the template"):
        escape.render(MESSAGES)
