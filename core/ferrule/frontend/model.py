"""The text side of a checkpoint: its names, tokenizer, chat template and generation defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.frontend.defaults import default_max_tokens, default_sampling, eos_ids, unused_keys
from ferrule.plan import SamplingParams
from ferrule.tokenizer.chat_template import ChatTemplate
from ferrule.tokenizer.load import load_chat_template, load_tokenizer
from ferrule.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """One model as clients see it.

    Attributes:
        names: What requests may call it; the first is the one that answers carry.
        created: When it was put up for serving, in seconds since 1970.
        tokenizer: None serves token ids only.
        template: None serves no chat.
        sampling: What holds where a request says nothing.
        max_tokens: The most tokens to generate where a request says nothing; None: whatever the
            context has room for.
        eos_ids: Every token that ends a sequence.
        notes: What the checkpoint asks for and is not done, for people to read.
    """

    names: tuple[str, ...]
    created: int
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    sampling: SamplingParams
    max_tokens: int | None = None
    eos_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]


def served_model(
    checkpoint: Checkpoint,
    *,
    names: Sequence[str],
    created: int,
    chat_template: Path | None = None,
) -> ServedModel:
    """Reads the text side of a checkpoint; no tensor is touched.

    Args:
        checkpoint: Headers are enough.
        names: What requests may call it, at least one.
        created: Seconds since 1970.
        chat_template: A file that overrules the checkpoint's own template.

    Raises:
        TokenizerError: The vocabulary or the template is broken.
        ConfigError: generation_config.json holds a value that no request could ask for.
    """
    tokenizer = load_tokenizer(checkpoint.files, checkpoint.metadata)
    generation = checkpoint.generation_config
    return ServedModel(
        names=tuple(names),
        created=created,
        tokenizer=tokenizer,
        template=load_chat_template(
            checkpoint.files, checkpoint.metadata, tokenizer, chat_template
        ),
        sampling=default_sampling(generation),
        max_tokens=default_max_tokens(generation),
        eos_ids=eos_ids(generation, checkpoint.config, tokenizer and tokenizer.eos_token_id),
        notes=tuple(
            f"generation_config.json sets {key}, which is not used"
            for key in unused_keys(generation)
        ),
    )
