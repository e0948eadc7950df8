"""``POST /v1/load_lora_adapter`` and ``POST /v1/unload_lora_adapter``."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from ferrule.errors import RequestError
from ferrule.server.job import json_response
from ferrule.server.parse import parse
from ferrule.server.schema import JsonObject
from ferrule.server.service import Service


class LoadRequest(msgspec.Struct, kw_only=True):
    """What to load.

    Attributes:
        lora_name: What requests will call it.
        lora_path: A directory, a file, or ``org/name[@revision]`` on the Hub.
        load_inplace: It may take the place of an adapter of that name.
    """

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadRequest(msgspec.Struct, kw_only=True):
    """What to unload."""

    lora_name: str


class LoraResponse(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of it.

    Attributes:
        status: "success".
        message: For people.
        report: What the adapter touches.
    """

    status: str
    message: str
    report: JsonObject | None = None


@post("/v1/load_lora_adapter", status_code=200)
async def load_lora_adapter(
    request: Request[Any, Any, Any], service: NamedDependency[Service]
) -> ASGIApp:
    """Loads an adapter while others are being served."""
    asked, _ = parse(await request.body(), LoadRequest)
    service.check_ready()
    for field in ("lora_name", "lora_path"):
        if not getattr(asked, field):
            raise RequestError(f"{field} is empty", param=field)
    info = await service.loras.load(asked.lora_name, asked.lora_path, is_inplace=asked.load_inplace)
    if info is None:
        return _success(f"LoRA adapter '{asked.lora_name}' is loaded from there already")
    return _success(f"LoRA adapter '{asked.lora_name}' loaded successfully", info.report)


@post("/v1/unload_lora_adapter", status_code=200)
async def unload_lora_adapter(
    request: Request[Any, Any, Any], service: NamedDependency[Service]
) -> ASGIApp:
    """Unloads an adapter; what runs with it ends in its own time."""
    asked, _ = parse(await request.body(), UnloadRequest)
    service.check_ready()
    await service.loras.unload(asked.lora_name)
    return _success(f"LoRA adapter '{asked.lora_name}' unloaded successfully")


def _success(message: str, report: JsonObject | None = None) -> ASGIApp:
    return json_response(LoraResponse(status="success", message=message, report=report))
