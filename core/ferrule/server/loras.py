"""The adapters that requests may name, and who may change them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from types import MappingProxyType

from ferrule.errors import EngineDeadError, FerruleError, RequestError
from ferrule.frontend.engine_protocol import EngineProtocol
from ferrule.frontend.model import ServedModel, adapted_model
from ferrule.plan import LoraInfo
from ferrule.server.errors import StatusError
from ferrule.server.lora_updates import LoraUpdates

_log = logging.getLogger(__name__)
_LET_GO_SECONDS = 5.0


class ServedLoras:
    """Adapters by name.

    Args:
        model: The text side of the model under them.
        engine: Reads and applies them.
        updates: What clients may load; None: they may change nothing.
    """

    def __init__(
        self, model: ServedModel, engine: EngineProtocol, updates: LoraUpdates | None = None
    ) -> None:
        self._model = model
        self._engine = engine
        self._updates = updates
        self._models: dict[str, ServedModel] = {}
        # One change at a time.
        self._changing = asyncio.Lock()
        # By content, of adapters that have no name any more.
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._telling: set[asyncio.Future[None]] = set()

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """The text side of each, in the order in which they came."""
        return MappingProxyType(self._models)

    def adopt(self, infos: Mapping[str, LoraInfo]) -> None:
        """Takes the adapters that the engine read at its start.

        Raises:
            TokenizerError: What one brings is broken.
        """
        for name, info in infos.items():
            self._add(name, info)

    async def load(self, name: str, location: str, *, is_inplace: bool) -> LoraInfo | None:
        """Loads an adapter under a name.

        Args:
            name: Under which requests will ask for it.
            location: A path, or ``org/name`` on the Hub.
            is_inplace: Whether it may take the place of another adapter of the name; requests that
                run with that one end with it.

        Returns:
            What the engine said of it; None: it was loaded already, under this name from there.

        Raises:
            RequestError: The path may not be loaded, or the adapter cannot be served.
            StatusError: The name is taken, or adapters cannot be changed here.
        """
        updates = self._check_updates()
        location = updates.allowed(location)
        if name in self._model.names:
            raise _taken(name, "the model itself is called so")
        async with self._changing:
            present = self._models.get(name)
            if present is not None and not is_inplace:
                if present.root == location:
                    return None
                raise _taken(name, f"it was loaded from {present.root}; load_inplace replaces it")
            try:
                info = await self._engine.load_lora(location)
            except RequestError:
                raise
            except FerruleError as error:
                raise _unfit(error) from error
            try:
                self._add(name, info)
            except FerruleError as error:
                self._let_go(info.content)
                raise _unfit(error) from error
            _log.info("adapter %s: %s in %s", name, info.summary, ", ".join(info.kinds))
            if present is not None:
                self._let_go(present.lora)
        return info

    async def unload(self, name: str) -> None:
        """Takes a name away; requests that run with its adapter end with it.

        Raises:
            StatusError: There is no such adapter, or adapters cannot be changed here.
        """
        self._check_updates()
        async with self._changing:
            present = self._models.pop(name, None)
            if present is None:
                raise StatusError(
                    404,
                    f"LoRA adapter '{name}' not found",
                    param="lora_name",
                    code="adapter_not_found",
                )
            _log.info("adapter %s is unloaded", name)
            self._let_go(present.lora)

    def _let_go(self, content: str) -> None:
        """Tells the engine of an adapter that has had no name for a while.

        A request may have found the name and not have reached the engine yet.
        """
        if any(model.lora == content for model in self._models.values()):
            return
        self._keep(content)
        loop = asyncio.get_running_loop()
        self._leaving[content] = loop.call_later(_LET_GO_SECONDS, self._unload, content)

    def _keep(self, content: str) -> None:
        if content in self._leaving:
            self._leaving.pop(content).cancel()

    def _unload(self, content: str) -> None:
        del self._leaving[content]
        task = asyncio.ensure_future(self._tell(content))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, content: str) -> None:
        with contextlib.suppress(EngineDeadError):
            await self._engine.unload_lora(content)

    def _add(self, name: str, info: LoraInfo) -> None:
        self._models[name] = adapted_model(self._model, name, info, created=int(time.time()))
        self._keep(info.content)

    def _check_updates(self) -> LoraUpdates:
        if self._updates is None:
            raise StatusError(
                501,
                "adapters cannot be loaded or unloaded on this server",
                code="updates_not_enabled",
                hint="Start it with --enable-lora --enable-lora-updates.",
            )
        return self._updates


def _taken(name: str, reason: str) -> StatusError:
    return StatusError(
        409,
        f"the name '{name}' already exists with a different path: {reason}",
        param="lora_name",
        code="load_name_exists",
    )


def _unfit(error: FerruleError) -> RequestError:
    return RequestError(
        error.message, param="lora_path", code="load_invalid_adapter", hint=error.hint
    )
