"""``POST /v1/completions``."""

from __future__ import annotations

from typing import Any, cast

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp
from msgspec import UNSET

from ferrule.errors import RequestError
from ferrule.frontend.answer import Answer
from ferrule.frontend.completion import Completion
from ferrule.frontend.prepare import make_requests, tokenize
from ferrule.server.completion_choices import CompletionChoices
from ferrule.server.completions_schema import CompletionRequest, CompletionResponse
from ferrule.server.disconnect import unless_client_leaves
from ferrule.server.echo import Echo, echo_of
from ferrule.server.job import Job, aside_if_long, json_response
from ferrule.server.parse import parse
from ferrule.server.request_id import new_id
from ferrule.server.sampling import sampling_params
from ferrule.server.service import Service

# OpenAI's default for this route, where neither request nor checkpoint says anything.
_DEFAULT_MAX_TOKENS = 16
_MAX_PROMPTS = 1024


@post("/v1/completions", status_code=200)
async def completions(
    request: Request[Any, Any, Any], service: NamedDependency[Service]
) -> ASGIApp:
    """Continues one or more prompts, at once or as a stream."""
    body = await request.body()
    asked, job, choices = await aside_if_long(body, lambda: _prepare(service, body))
    if asked.stream:
        return job.stream(choices.encode, choices.usage)
    answers = await unless_client_leaves(request.receive, service.answers(job.completions))
    return json_response(_response(job, choices, answers))


def _prepare(service: Service, body: bytes) -> tuple[CompletionRequest, Job, CompletionChoices]:
    service.check_ready()
    asked, _ = parse(body, CompletionRequest)
    model = service.named(asked.model)
    n = 1 if asked.n is None else asked.n
    if asked.best_of not in (None, n):
        raise RequestError(
            f"best_of is {asked.best_of} and n is {n}: choosing among more answers than are "
            "returned is not supported",
            param="best_of",
            code="unsupported_parameter",
        )
    sampling = sampling_params(
        asked,
        model.sampling,
        logprobs=asked.logprobs,
        prompt_logprobs=asked.logprobs if asked.echo else None,
    )
    answer_id = f"cmpl-{new_id()}"
    prompts = _prompts(asked)
    all_completions: list[Completion] = []
    echoes: list[Echo] = []
    for number, prompt in enumerate(prompts):
        tokens = tokenize(model, prompt, add_special_tokens=asked.add_special_tokens)
        requests = make_requests(
            model,
            service.engine.info,
            tokens,
            sampling,
            request_id=f"{answer_id}-{number}",
            n=n,
            default_max_tokens=model.max_tokens or _DEFAULT_MAX_TOKENS,
            cache_salt=asked.cache_salt or "",
            param="prompt" if len(prompts) == 1 else f"prompt[{number}]",
        )
        all_completions += [
            Completion(one, model.tokenizer, skip_special_tokens=asked.skip_special_tokens)
            for one in requests
        ]
        if asked.echo:
            echoes.append(echo_of(model.tokenizer, prompt, tokens))
    job = Job(
        id=answer_id,
        service=service,
        model=asked.model,
        served=model,
        completions=all_completions,
        n=n,
        includes_usage=asked.stream_options is not None and asked.stream_options.include_usage,
        # Where there is no text, the ids are the answer.
        returns_token_ids=asked.return_token_ids or model.tokenizer is None,
    )
    return asked, job, CompletionChoices(job, echoes, asked.logprobs or 0)


def _prompts(asked: CompletionRequest) -> list[str | list[int]]:
    """The prompts one by one: a list of numbers is one prompt, a list of lists or texts many."""
    sent = asked.prompt
    if isinstance(sent, str):
        return [sent]
    if not sent:
        raise RequestError("prompt is empty; at least one token is needed", param="prompt")
    if len(sent) > _MAX_PROMPTS and not isinstance(sent[0], int):
        raise RequestError(
            f"prompt holds {len(sent)} prompts; at most {_MAX_PROMPTS} are taken at once",
            param="prompt",
        )
    # One pass, and none in Python: prompts are long.
    kinds = set(map(type, sent))
    if kinds == {int}:
        return [cast(list[int], sent)]
    if int in kinds:
        raise RequestError(
            "prompt mixes token ids with whole prompts; it must be a text, a list of token ids, "
            "or a list of either",
            param="prompt",
        )
    return cast(list[str | list[int]], sent)


def _response(job: Job, choices: CompletionChoices, answers: list[Answer]) -> CompletionResponse:
    return CompletionResponse(
        id=job.id,
        created=job.created,
        model=job.model,
        system_fingerprint=job.service.fingerprint,
        choices=[choices.whole(index, answer) for index, answer in enumerate(answers)],
        usage=job.usage() if answers else UNSET,
    )
