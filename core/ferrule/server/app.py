"""The application: its routes, its errors and what they share."""

from __future__ import annotations

from litestar import Litestar
from litestar.di import Provide

import ferrule
from ferrule.frontend.engine_protocol import EngineProtocol
from ferrule.frontend.model import ServedModel
from ferrule.server.chat import chat_completions
from ferrule.server.completions import completions
from ferrule.server.errors import exception_handlers
from ferrule.server.health import health, metrics, version
from ferrule.server.lora_routes import load_lora_adapter, unload_lora_adapter
from ferrule.server.lora_updates import LoraUpdates
from ferrule.server.loras import ServedLoras
from ferrule.server.metrics import Metrics
from ferrule.server.models import get_model, list_models
from ferrule.server.request_id import add_request_id
from ferrule.server.service import Service

# A context of some hundred thousand token ids, written as JSON, is a few megabytes.
_MAX_BODY_BYTES = 100 * 1024 * 1024


def create_service(
    model: ServedModel,
    engine: EngineProtocol,
    *,
    lora_updates: LoraUpdates | None = None,
    metrics_prefix: str = "ferrule:",
) -> Service:
    """What the routes share.

    Args:
        model: The text side.
        engine: Need not be ready yet; requests are answered 503 until it is.
        lora_updates: Which adapters clients may load; None: they may change nothing.
        metrics_prefix: Goes before every metric's name; ``vllm:`` suits dashboards made for it.
    """
    return Service(
        model=model,
        engine=engine,
        loras=ServedLoras(model, engine, lora_updates),
        metrics=Metrics(model.name, lambda: engine.stats, prefix=metrics_prefix),
        version=ferrule.__version__,
    )


def create_app(service: Service) -> Litestar:
    """The ASGI application."""
    return Litestar(
        route_handlers=[
            chat_completions,
            completions,
            list_models,
            get_model,
            load_lora_adapter,
            unload_lora_adapter,
            health,
            version,
            metrics,
        ],
        dependencies={"service": Provide(lambda: service, sync_to_thread=False)},
        exception_handlers=exception_handlers(),
        before_send=[add_request_id],
        request_max_body_size=_MAX_BODY_BYTES,
        # The built-in pages load their scripts from elsewhere.
        openapi_config=None,
        logging_config=None,
    )
