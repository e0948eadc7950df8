"""Where chat templates run: Jinja2 without access to Python, within bounds of time and size."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

_MAX_INTEGER_BITS = 4096
_Values = Mapping[str, object] | Iterable[tuple[str, object]]


class TemplateRefusal(jinja2.TemplateError):
    """The template called ``raise_exception``: it cannot write such a conversation."""


class TemplateLimitError(SecurityError):
    """The template ran longer, or made a longer text, than it may."""


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The Jinja2 that transformers gives to chat templates, with bounds.

    A template comes with the weights, from anybody. It can reach no attribute with an underscore
    and change no value that it is given. Its loops and calls stop at a deadline, and neither its
    output nor a text that its operators make can exceed ``max_characters``.

    Args:
        max_seconds: How long one rendering may take.
        max_characters: How long its output, and every text or list on the way, may be.
    """

    intercepted_binops = frozenset(["+", "*", "**"])

    def __init__(self, *, max_seconds: float, max_characters: int) -> None:
        # Without the optimizer nothing of the template is worked out before it is bounded.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
        )
        self._max_seconds = max_seconds
        self._max_characters = max_characters
        self._running = threading.local()
        self.filters |= {
            "tojson": to_json,
            "from_json": json.loads,
            _LOOP: self._bounded_loop,
            _CONCAT: self._bounded_concat,
        }
        self.concat = self._bounded_concat  # what macros and blocks put their text together with
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _make_dict,
            "namespace": TemplateNamespace,
        }

    def load(self, source: str) -> jinja2.Template:
        """Compile a template.

        Raises:
            jinja2.TemplateSyntaxError: The template is broken.
        """
        tree = _Bounds().visit(self.parse(source))
        return jinja2.Template.from_code(self, self.compile(tree), self.globals)

    def run(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Render a template that ``load`` gave.

        Raises:
            TemplateLimitError: It ran too long or wrote too much.
            Exception: Whatever the template's own mistakes raise.
        """
        self._running.deadline = time.monotonic() + self._max_seconds
        written: list[str] = []
        length = 0
        for text in template.generate(variables):
            length += len(text)
            self._check_length(length)
            self._check_time()
            written.append(text)
        return "".join(written)

    def call(self, context: Context, obj: object, /, *args: object, **kwargs: object) -> object:
        """Call something for the template, if there is time left and it is safe to call."""
        self._check_time()
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Add, multiply or raise to a power, if the result is of a bearable size."""
        if operator == "**":
            self._check_bits(_bits(left) * _bits(right, exponent=True))
        elif operator == "*":
            self._check_bits(_bits(left) + _bits(right))
            self._check_length(_length(left) * _times(right) + _length(right) * _times(left))
        else:
            self._check_length(_length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def _bounded_loop(self, values: Iterable[object]) -> Iterator[object]:
        for value in values:
            self._check_time()
            yield value

    def _bounded_concat(self, values: Iterable[object]) -> str:
        texts = [str(value) for value in values]
        self._check_length(sum(map(len, texts)))
        return "".join(texts)

    def _check_time(self) -> None:
        if time.monotonic() > self._running.deadline:
            raise TemplateLimitError(f"it took more than {self._max_seconds:g} seconds")

    def _check_length(self, length: int) -> None:
        if length > self._max_characters:
            raise TemplateLimitError(
                f"it made a text of more than {self._max_characters} characters"
            )

    def _check_bits(self, bits: int) -> None:
        if bits > _MAX_INTEGER_BITS:
            raise TemplateLimitError(f"it made a number of more than {_MAX_INTEGER_BITS} bits")


class TemplateNamespace(Namespace):
    """A template's own variables; a name with an underscore in front could reach into Python."""

    def __init__(self, values: _Values = (), /, **kwargs: object) -> None:
        named = dict(values, **kwargs)
        for name in named:
            _check_name(name)
        super().__init__(named)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class GenerationTag(Extension):
    """``{% generation %}``, which marks the model's own words for training: its body, unchanged."""

    tags = {"generation"}  # noqa: RUF012 - Jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """Read the tag up to its end; names set within stay within."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Python's own module writes it, without Jinja2's escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


_LOOP = "ferrule_bounded_loop"
_CONCAT = "ferrule_bounded_concat"


class _Bounds(NodeTransformer):
    """Lets every loop and every ``~`` of a template go through the sandbox."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _LOOP)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _raise_exception(message: str) -> None:
    raise TemplateRefusal(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _make_dict(values: _Values = (), /, **kwargs: object) -> dict[str, object]:
    return dict(values, **kwargs)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}, a name with an underscore in front")


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _times(value: object) -> int:
    return max(0, value) if isinstance(value, int) else 0


def _bits(value: object, *, exponent: bool = False) -> int:
    if not isinstance(value, int):
        return 0
    return abs(value) if exponent else value.bit_length()
