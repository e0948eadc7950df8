"""``GET /health``, ``GET /version`` and ``GET /metrics``."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST

from ferrule.server.service import Service


@get("/health")
async def health(service: NamedDependency[Service]) -> Response[bytes]:
    """200 when requests are served, else 503 with the stage of the start or the cause of death."""
    status = service.engine.status
    match status.state:
        case "ready":
            return _json(200, {"status": "ready", **_load(service)})
        case "starting":
            progress = status.progress
            stage = {
                "status": "starting",
                "stage": progress.stage if progress else "starting",
                "fraction": progress.fraction if progress else None,
                "detail": progress.detail if progress else "",
            }
            return _json(503, stage)
        case "dead":
            return _json(503, {"status": "dead", "error": status.cause})


@get("/version")
async def version(service: NamedDependency[Service]) -> Response[bytes]:
    """Which ferrule this is."""
    return _json(200, {"name": "ferrule", "version": service.version})


@get("/metrics")
async def metrics(service: NamedDependency[Service]) -> Response[bytes]:
    """Everything that is counted, in Prometheus' text format."""
    return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})


def _load(service: Service) -> dict[str, Any]:
    info, stats = service.engine.info, service.engine.stats
    return {
        "model": service.model.name,
        "architecture": info.architecture,
        "device": info.device,
        "dtype": info.dtype,
        "max_length": info.max_length,
        "running": stats.running,
        "waiting": stats.waiting,
        "kv_used": stats.kv_used,
    }


def _json(status: int, body: dict[str, Any]) -> Response[bytes]:
    return Response(msgspec.json.encode(body), status_code=status, media_type=MediaType.JSON)
