"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp

from ferrule.server.job import json_response
from ferrule.server.schema import ModelCard, ModelList
from ferrule.server.service import Service


@get("/v1/models")
async def list_models(service: NamedDependency[Service]) -> ASGIApp:
    """Every name that requests may use: the model's, then those of adapters."""
    names = (*service.model.names, *service.loras.models)
    return json_response(ModelList(data=[_card(service, name) for name in names]))


@get("/v1/models/{model_id:path}")
async def get_model(service: NamedDependency[Service], model_id: FromPath[str]) -> ASGIApp:
    """One of them; ids such as ``org/name`` hold a slash."""
    return json_response(_card(service, model_id.removeprefix("/")))


def _card(service: Service, name: str) -> ModelCard:
    model = service.named(name)
    is_ready = service.engine.status.state == "ready"
    return ModelCard(
        id=name,
        created=model.created,
        root=model.root or model.name,
        parent=model.parent,
        max_model_len=service.engine.info.max_length if is_ready else None,
    )
