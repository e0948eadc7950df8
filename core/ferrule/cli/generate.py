"""``ferrule generate``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
import typer

from ferrule.cli.engine_flags import engine_flags
from ferrule.cli.flag_groups import takes
from ferrule.cli.sampling_flags import sampling_flags
from ferrule.cli.serve import ChatTemplate
from ferrule.engine.options import EngineOptions
from ferrule.errors import OptionError
from ferrule.frontend.validation import check_sampling
from ferrule.plan import SamplingParams

Prompt = Annotated[
    str | None, typer.Option("--prompt", "-p", help="The prompt. Without it: what stdin holds.")
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Continue the prompt as it is, without the chat template.")
]


@takes(options=engine_flags, sampling=sampling_flags)
def generate(
    options: EngineOptions,
    sampling: dict[str, Any],
    prompt: Prompt = None,
    raw: Raw = False,
    chat_template: ChatTemplate = None,
) -> None:
    """Answer one prompt; the answer goes to stdout, everything else to stderr."""
    text = _read_prompt() if prompt is None else prompt
    check_sampling(SamplingParams(**sampling), vocab_size=0)
    # torch costs seconds to import, which --help need not wait for.
    from ferrule.cli.answering import answer, load

    if options.max_batch_size is None:
        options = msgspec.structs.replace(options, max_batch_size=1)
    llm = load(options, chat_template=chat_template)
    answer(llm, text, sampling, is_raw=raw)


def _read_prompt() -> str:
    if sys.stdin.isatty():
        raise typer.BadParameter("missing; give --prompt TEXT, or pipe a text in.")
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise OptionError(f"stdin is not UTF-8 text: {error}") from error
    # The line end that echo and editors put behind a text is not part of it.
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise typer.BadParameter("stdin is empty; give --prompt TEXT, or pipe a text in.")
    return text
