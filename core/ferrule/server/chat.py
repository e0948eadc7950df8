"""``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp
from msgspec import UNSET

from ferrule.errors import RequestError
from ferrule.frontend.answer import Answer
from ferrule.frontend.chat import render_chat
from ferrule.frontend.completion import Completion
from ferrule.frontend.prepare import make_requests
from ferrule.server.chat_chunks import ChatChunks
from ferrule.server.chat_schema import (
    AnswerMessage,
    ChatChoice,
    ChatRequest,
    ChatResponse,
)
from ferrule.server.disconnect import unless_client_leaves
from ferrule.server.job import Job, aside_if_long, json_response
from ferrule.server.logprobs import chat_logprobs
from ferrule.server.parse import parse
from ferrule.server.request_id import new_id
from ferrule.server.sampling import sampling_params
from ferrule.server.schema import JsonObject
from ferrule.server.service import Service


@post("/v1/chat/completions", status_code=200)
async def chat_completions(
    request: Request[Any, Any, Any], service: NamedDependency[Service]
) -> ASGIApp:
    """Answers a conversation, at once or as a stream."""
    body = await request.body()
    asked, job = await aside_if_long(body, lambda: _prepare(service, body))
    num_top = asked.top_logprobs or 0
    if asked.stream:
        chunks = ChatChunks(job, num_top)
        return job.stream(chunks.encode, chunks.usage)
    answers = await unless_client_leaves(request.receive, service.answers(job.completions))
    return json_response(_response(job, answers, num_top))


def _prepare(service: Service, body: bytes) -> tuple[ChatRequest, Job]:
    service.check_ready()
    asked, plain = parse(body, ChatRequest)
    model = service.named(asked.model)
    tokens = render_chat(
        model,
        plain["messages"],
        tools=_tools(asked, plain),
        add_generation_prompt=asked.add_generation_prompt,
        continue_final_message=asked.continue_final_message,
        template_kwargs=asked.chat_template_kwargs,
    )
    answer_id = f"chatcmpl-{new_id()}"
    n = 1 if asked.n is None else asked.n
    requests = make_requests(
        model,
        service.engine.info,
        tokens,
        sampling_params(asked, model.sampling, logprobs=_num_logprobs(asked)),
        request_id=answer_id,
        n=n,
        default_max_tokens=model.max_tokens,
        cache_salt=asked.cache_salt or "",
        param="messages",
    )
    job = Job(
        id=answer_id,
        service=service,
        model=asked.model,
        served=model,
        completions=[
            Completion(one, model.tokenizer, skip_special_tokens=asked.skip_special_tokens)
            for one in requests
        ],
        n=n,
        includes_usage=asked.stream_options is not None and asked.stream_options.include_usage,
        returns_token_ids=asked.return_token_ids,
    )
    return asked, job


def _tools(asked: ChatRequest, plain: JsonObject) -> list[JsonObject] | None:
    if asked.tool_choice not in (None, "auto", "none"):
        raise RequestError(
            "tool_choice can only be 'auto' or 'none': a tool call cannot be forced yet",
            param="tool_choice",
            code="unsupported_parameter",
        )
    # Tools that must not be called are not shown to the model.
    return None if asked.tool_choice == "none" else plain.get("tools")


def _num_logprobs(asked: ChatRequest) -> int | None:
    if asked.logprobs:
        return asked.top_logprobs or 0
    if asked.top_logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    return None


def _response(job: Job, answers: list[Answer], num_top: int) -> ChatResponse:
    return ChatResponse(
        id=job.id,
        created=job.created,
        model=job.model,
        system_fingerprint=job.service.fingerprint,
        choices=[
            ChatChoice(
                index=index,
                message=AnswerMessage(content=answer.text),
                logprobs=chat_logprobs(
                    job.served.tokenizer, answer.tokens, answer.logprobs, num_top
                ),
                finish_reason=answer.finish_reason,
                stop_reason=answer.stop_reason,
                token_ids=answer.tokens if job.returns_token_ids else UNSET,
            )
            for index, answer in enumerate(answers)
        ],
        usage=job.usage(),
        prompt_token_ids=job.completions[0].request.tokens if job.returns_token_ids else UNSET,
    )
