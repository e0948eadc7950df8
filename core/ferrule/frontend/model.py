"""The text side of a checkpoint: its names, tokenizer, chat template and generation defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.frontend.defaults import default_max_tokens, default_sampling, eos_ids, unused_keys
from ferrule.plan import LoraInfo, SamplingParams
from ferrule.tokenizer.chat_template import ChatTemplate
from ferrule.tokenizer.load import load_chat_template, load_tokenizer
from ferrule.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSource:
    """Where a model's tokenizer and template come from, for adapters that bring some of it.

    Attributes:
        files: Small files beside the weights, by file name.
        metadata: A GGUF's, or nothing.
        chat_template: A file that overrules every other template.
    """

    files: Mapping[str, Path]
    metadata: Mapping[str, Any]
    chat_template: Path | None


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
        source: Of tokenizer and template.
        lora: Identity of the adapter's content; empty: it is the model itself.
        root: Where an adapter came from.
        parent: What the model under an adapter is called.
        vocab_size: Token ids are below this; 0: as the engine says.
    """

    names: tuple[str, ...]
    created: int
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    sampling: SamplingParams
    max_tokens: int | None = None
    eos_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    source: TextSource | None = None
    lora: str = ""
    root: str = ""
    parent: str | None = None
    vocab_size: int = 0

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
        source=TextSource(
            files=checkpoint.files, metadata=checkpoint.metadata, chat_template=chat_template
        ),
    )


def adapted_model(model: ServedModel, name: str, info: LoraInfo, *, created: int) -> ServedModel:
    """The text side of a model with an adapter, which may bring a tokenizer or a template.

    Args:
        model: Without it.
        name: What requests call the adapter.
        info: What the engine said of it.
        created: Seconds since 1970.

    Raises:
        TokenizerError: What it brings is broken.
    """
    tokenizer, template, source = model.tokenizer, model.template, model.source
    if info.files and source is not None:
        own = {name: Path(path) for name, path in info.files.items()}
        files = {**source.files, **own}
        tokenizer = load_tokenizer(files, source.metadata)
        template = load_chat_template(files, source.metadata, tokenizer, source.chat_template)
    own_eos = () if tokenizer is None else (tokenizer.eos_token_id,)
    return replace(
        model,
        names=(name,),
        created=created,
        tokenizer=tokenizer,
        template=template,
        eos_ids=tuple(dict.fromkeys(id for id in (*model.eos_ids, *own_eos) if id is not None)),
        lora=info.content,
        root=info.location,
        parent=model.name,
        vocab_size=info.vocab_size,
    )
