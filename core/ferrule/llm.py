"""A model in this process, for scripts: the same engine that the server runs in its own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ferrule.build import Report, build_engine
from ferrule.checkpoint.open import open_checkpoint
from ferrule.engine.messages import LoraRefused, Output, told
from ferrule.engine.options import EngineOptions
from ferrule.errors import ModelNotFoundError, RequestError
from ferrule.frontend.answer import Answer
from ferrule.frontend.chat import prompt_tokens, render_chat
from ferrule.frontend.completion import Completion, Delta
from ferrule.frontend.model import ServedModel, adapted_model, served_model
from ferrule.frontend.prepare import make_requests, tokenize
from ferrule.plan import LoraInfo, SamplingParams, TokenLogprobs

Prompt = str | Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What became of one prompt.

    Attributes:
        prompt_tokens: Its ids.
        answers: ``n`` of them.
        prompt_logprobs: One for each token of the prompt, None for its first, if asked for.
        num_cached_tokens: How many of the prompt's tokens were found in the prefix cache.
    """

    prompt_tokens: list[int]
    answers: list[Answer]
    prompt_logprobs: list[TokenLogprobs | None] | None
    num_cached_tokens: int

    @property
    def text(self) -> str:
        """The first answer's text."""
        return self.answers[0].text

    @property
    def tokens(self) -> list[int]:
        """The first answer's tokens, a stop token included."""
        return self.answers[0].tokens


class LLM:
    """A checkpoint that generates.

    >>> llm = LLM("./my-finetune")  # doctest: +SKIP
    >>> llm.generate(["Once upon a time"], SamplingParams(max_tokens=16))[0].text  # doctest: +SKIP

    Args:
        model: A directory, a GGUF file, or ``org/name[@revision]`` on the Hub.
        chat_template: A file that overrules the checkpoint's own template.
        report: Told of each stage of the start.
        options: Fields of EngineOptions: ``dtype``, ``devices``, ``max_length`` ...

    Raises:
        FerruleError: The model cannot be run; the message says why and what to do.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        chat_template: Path | None = None,
        report: Report = lambda _: None,
        **options: Any,
    ) -> None:
        asked = EngineOptions(model=str(model), **options)
        checkpoint = open_checkpoint(asked.model, weight_path=asked.weight_path)
        self.model = served_model(
            checkpoint,
            names=[asked.model],
            created=int(time.time()),
            chat_template=chat_template,
        )
        if self.model.tokenizer is not None:
            known = self.model.tokenizer.vocab_size
            asked = msgspec.structs.replace(asked, num_known_tokens=known)
        self.engine, self.info = build_engine(asked, report)
        self._loras: dict[str, ServedModel] = {}
        for name, info in self.info.loras.items():
            self._adopt(name, info)
        self._ids = itertools.count()
        # By request, what the engine gave and nobody has read yet.
        self._unread: dict[str, list[Output]] = {}

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        n: int = 1,
        lora: str | Sequence[str] = "",
    ) -> list[Generation]:
        """Runs all prompts together.

        Args:
            prompts: Texts or lists of token ids.
            sampling: For all of them, or one for each; None: the checkpoint's own defaults.
            n: Answers for each prompt.
            lora: The adapter's name for all of them, or one for each; empty: the model alone.

        Raises:
            RequestError: A prompt or a parameter is wrong; nothing has run then.
        """
        if isinstance(prompts, str):
            raise RequestError(
                "generate takes a list of prompts, and got one text", param="prompts"
            )
        loras = [lora] * len(prompts) if isinstance(lora, str) else lora
        models = [self.named(name) for name in loras]
        tokens = [tokenize(model, prompt) for model, prompt in zip(models, prompts, strict=True)]
        if not isinstance(sampling, Sequence):
            sampling = [sampling or self.model.sampling] * len(prompts)
        if len(sampling) != len(prompts):
            raise RequestError(
                f"{len(prompts)} prompts came with {len(sampling)} sampling parameters; expected "
                "one for all of them or one for each",
                param="sampling",
            )
        return self._run(models, tokens, sampling, n)

    def load_lora(self, name: str, location: str | Path) -> LoraInfo:
        """Loads an adapter, or another one under a name that is known.

        Args:
            name: For ``lora`` of the other methods.
            location: A directory, a GGUF file, or ``org/name[@revision]`` on the Hub.

        Raises:
            FerruleError: It cannot be served.
        """
        ticket = f"llm-{next(self._ids)}"
        self.engine.load_lora(ticket, str(location))
        while True:
            for output in self.engine.step():
                if output.id in self._unread:
                    self._unread[output.id].append(output)
            for reply in self.engine.take_replies():
                if isinstance(reply, LoraRefused):
                    raise told(reply)
                self.unload_lora(name)
                self._adopt(name, reply.info)
                return reply.info

    def unload_lora(self, name: str) -> None:
        """Lets go of an adapter, once what runs with it has ended; unknown names mean nothing."""
        former = self._loras.pop(name, None)
        if former and all(model.lora != former.lora for model in self._loras.values()):
            self.engine.unload_lora(former.lora)

    def named(self, lora: str) -> ServedModel:
        """The text side of an adapter; of the model itself if the name is empty or the model's.

        Raises:
            ModelNotFoundError: There is no such adapter.
        """
        if not lora or lora in self.model.names:
            return self.model
        if lora not in self._loras:
            raise ModelNotFoundError(
                f"the adapter {lora!r} is not loaded; loaded: {', '.join(self._loras) or 'none'}",
                param="lora",
                code="model_not_found",
            )
        return self._loras[lora]

    def _adopt(self, name: str, info: LoraInfo) -> None:
        self._loras[name] = adapted_model(self.model, name, info, created=int(time.time()))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling: SamplingParams | None = None,
        *,
        n: int = 1,
        lora: str = "",
        **template_kwargs: Any,
    ) -> Generation:
        """Answers a conversation through the chat template.

        Args:
            messages: ``[{"role": "user", "content": "..."}, ...]``.
            sampling: None: the checkpoint's own defaults.
            n: Answers.
            lora: The adapter's name; empty: the model alone.
            template_kwargs: More variables for the template.
        """
        model = self.named(lora)
        tokens = render_chat(model, messages, template_kwargs=template_kwargs)
        return self._run([model], [tokens], [sampling or model.sampling], n)[0]

    def stream(
        self,
        prompt: Prompt | Sequence[Mapping[str, Any]],
        sampling: SamplingParams | None = None,
        *,
        lora: str = "",
    ) -> Iterator[Delta]:
        """One answer, piece by piece.

        Args:
            prompt: A text, token ids, or the messages of a conversation.
            sampling: None: the checkpoint's own defaults.
            lora: The adapter's name; empty: the model alone.
        """
        model = self.named(lora)
        tokens = prompt_tokens(model, prompt)
        (completion,) = self._completions(model, tokens, sampling or model.sampling, 1)
        for _, delta in self._steps([completion]):
            yield delta

    def _run(
        self,
        models: Sequence[ServedModel],
        prompts: list[list[int]],
        sampling: Sequence[SamplingParams],
        n: int,
    ) -> list[Generation]:
        groups = [
            self._completions(model, tokens, params, n)
            for model, tokens, params in zip(models, prompts, sampling, strict=True)
        ]
        completions = [completion for group in groups for completion in group]
        answers = [Answer() for _ in completions]
        for index, delta in self._steps(completions):
            answers[index].add(delta)
        remaining = iter(answers)
        return [
            Generation(
                prompt_tokens=tokens,
                answers=list(itertools.islice(remaining, n)),
                prompt_logprobs=group[0].prompt_logprobs,
                num_cached_tokens=group[0].num_cached_tokens,
            )
            for tokens, group in zip(prompts, groups, strict=True)
        ]

    def _completions(
        self, model: ServedModel, tokens: list[int], sampling: SamplingParams, n: int
    ) -> list[Completion]:
        requests = make_requests(
            model,
            self.info,
            tokens,
            sampling,
            request_id=f"llm-{next(self._ids)}",
            n=n,
            default_max_tokens=model.max_tokens,
        )
        return [Completion(request, model.tokenizer) for request in requests]

    def _steps(self, completions: list[Completion]) -> Iterator[tuple[int, Delta]]:
        """Steps the engine until all have ended; whatever still runs when left is aborted."""
        running = {completion.request.id: i for i, completion in enumerate(completions)}
        for completion in completions:
            self._unread[completion.request.id] = []
            self.engine.add(completion.request)
        try:
            while running:
                for output in self._outputs(running):
                    index = running[output.id]
                    completion = completions[index]
                    delta = completion.push(output)
                    if completion.finish_reason is not None:
                        self._drop([output.id], is_running=completion.needs_abort)
                        del running[output.id]
                    yield index, delta
        finally:
            self._drop(running, is_running=True)

    def _outputs(self, ids: Iterable[str]) -> list[Output]:
        """At most one output of each of these requests, in a step if none is there yet.

        A step gives outputs of streams beside this one too; they wait until those are read.
        """
        if not any(self._unread[id] for id in ids):
            for output in self.engine.step():
                if output.id in self._unread:
                    self._unread[output.id].append(output)
        return [self._unread[id].pop(0) for id in ids if self._unread[id]]

    def _drop(self, ids: Iterable[str], *, is_running: bool) -> None:
        ids = list(ids)
        for id in ids:
            del self._unread[id]
        if is_running:
            self.engine.abort(ids)
