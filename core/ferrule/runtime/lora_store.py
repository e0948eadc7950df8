"""Adapters in host memory, read and brought to the device by a thread beside the steps."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
import torch

from ferrule.errors import FerruleError, LoadError, OutOfMemoryError
from ferrule.layers.lora import Copy
from ferrule.lora import Adapter
from ferrule.plan import LoraInfo
from ferrule.runtime.lora_adapter import PreparedLora, prepare
from ferrule.runtime.lora_slots import LoraSlots

Read = Callable[[str], Adapter]
_SWITCH_SECONDS = 0.0005


class LoraStore:
    """The adapters of one model.

    Args:
        slots: The device's room for them.
        read: Reads an adapter from where it lies and holds it against the model.
        num_on_host: Most adapters in host memory; others are read again when they are wanted.
        num_added_rows: Most rows beyond the model's vocabulary.
        vocab_size: The model's.
    """

    def __init__(
        self,
        slots: LoraSlots,
        read: Read,
        *,
        num_on_host: int,
        vocab_size: int,
        num_added_rows: int = 0,
    ) -> None:
        self.num_slots = slots.sizes.num_slots
        self._slots = slots
        self._read = read
        self._num_on_host = num_on_host
        self._vocab_size = vocab_size
        self._num_added_rows = num_added_rows
        self._device = slots.sizes.device
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        # By content: where each known adapter lies, and the tensors of those in host memory, the
        # least recently wanted first.
        self._locations: dict[str, str] = {}
        self._on_host: OrderedDict[str, PreparedLora] = OrderedDict()
        self._lock = threading.Lock()
        self._has_news = threading.Event()
        self._loaded: list[tuple[str, tuple[LoraInfo, PreparedLora] | FerruleError]] = []
        self._placed: list[tuple[int, str]] = []
        # Nobody who runs waits behind a download. One thread each, so in order.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="lora-reader")
        self._placer = ThreadPoolExecutor(1, thread_name_prefix="lora-placer")
        # A thread gets the interpreter's lock from one that is busy after 5 ms, and lets go of it
        # in every operation: hundreds of small ones would take seconds beside steps.
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))

    def load_now(self, adapter: Adapter) -> LoraInfo:
        """Takes an adapter that has been read, while nothing else is to be done.

        Raises:
            FerruleError: It cannot be served.
        """
        info, lora = self._prepare(adapter)
        self._slots.allocate(lora.parts.items())
        self._keep(lora, info.location)
        return info

    def load(self, ticket: str, location: str) -> None:
        """Starts to read an adapter."""
        self._reader.submit(self._load, ticket, location)

    def loaded(self) -> list[tuple[str, LoraInfo | FerruleError]]:
        """What has been read, or could not be, since the last call."""
        with self._lock:
            loaded, self._loaded = self._loaded, []
            self._has_news.clear()
        return [(ticket, self._taken_in(result)) for ticket, result in loaded]

    def _taken_in(
        self, result: tuple[LoraInfo, PreparedLora] | FerruleError
    ) -> LoraInfo | FerruleError:
        """Makes room for what an adapter touches first; here, where no step is being launched."""
        if isinstance(result, FerruleError):
            return result
        info, lora = result
        try:
            self._slots.allocate(lora.parts.items())
        except torch.OutOfMemoryError as error:
            return _told(error, info.location)
        self._keep(lora, info.location)
        return info

    def place(self, content: str, slot: int) -> None:
        """Starts to bring an adapter into a slot."""
        # Steps that were launched may still use what is in it.
        launched = torch.cuda.Event() if self._stream is not None else None
        if launched is not None:
            launched.record(torch.cuda.current_stream(self._device))
        self._placer.submit(self._place, content, slot, launched)

    def placed(self) -> list[tuple[int, str]]:
        """Slots that are filled since the last call, each with what went wrong or nothing."""
        with self._lock:
            placed, self._placed = self._placed, []
            self._has_news.clear()
        return placed

    def forget(self, content: str) -> None:
        """Lets go of an adapter."""
        with self._lock:
            self._locations.pop(content, None)
            self._on_host.pop(content, None)

    def wait(self, seconds: float) -> None:
        """Waits for news, but no longer than this."""
        self._has_news.wait(seconds)

    def num_host_bytes(self) -> int:
        """Bytes of the adapters in host memory."""
        with self._lock:
            return sum(lora.num_bytes for lora in self._on_host.values())

    def num_device_bytes(self) -> int:
        """Bytes that the device keeps for adapters."""
        return self._slots.num_bytes

    def close(self) -> None:
        """Ends the threads."""
        self._reader.shutdown(cancel_futures=True)
        self._placer.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _load(self, ticket: str, location: str) -> None:
        result: tuple[LoraInfo, PreparedLora] | FerruleError
        try:
            with self._beside():
                result = self._prepare(self._read(location))
        except Exception as error:
            result = _told(error, location)
        with self._lock:
            self._loaded.append((ticket, result))
            self._has_news.set()

    @torch.inference_mode()
    def _place(self, content: str, slot: int, launched: Any) -> None:
        error = ""
        try:
            lora = self._wanted(content)
            with self._beside():
                if launched is not None:
                    launched.wait()
                _copy(self._slots.place(slot, lora))
                if self._stream is not None:
                    self._stream.synchronize()
        except Exception as caught:
            error = str(_told(caught, self._locations.get(content, "")))
        with self._lock:
            self._placed.append((slot, error))
            self._has_news.set()

    def _beside(self) -> AbstractContextManager[object]:
        """What is launched inside does not wait for the steps, nor they for it."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _prepare(self, adapter: Adapter) -> tuple[LoraInfo, PreparedLora]:
        self._check_vocabulary(adapter)
        lora = prepare(adapter, self._slots.sites, self._slots.sizes)
        return _info(adapter, lora), lora

    def _wanted(self, content: str) -> PreparedLora:
        """An adapter's tensors, read again if they are not in host memory."""
        with self._lock:
            if content in self._on_host:
                self._on_host.move_to_end(content)
                return self._on_host[content]
            location = self._locations[content]
        adapter = self._read(location)
        if adapter.content != content:
            raise LoadError(
                f"{location} is not the adapter that was loaded any more: its files have changed.",
                hint="Load it again with load_inplace: true.",
            )
        lora = prepare(adapter, self._slots.sites, self._slots.sizes)
        self._keep(lora, location)
        return lora

    def _keep(self, lora: PreparedLora, location: str) -> None:
        with self._lock:
            self._locations[lora.content] = location
            self._on_host[lora.content] = lora
            self._on_host.move_to_end(lora.content)
            while len(self._on_host) > self._num_on_host:
                self._on_host.popitem(last=False)

    def _check_vocabulary(self, adapter: Adapter) -> None:
        num_added = adapter.vocab_size - self._vocab_size
        if num_added > self._num_added_rows:
            raise LoadError(
                f"{adapter.location} adds {num_added} rows to the model's {self._vocab_size} "
                f"tokens, and there is room for {self._num_added_rows}.",
                hint="Name the adapter in --lora-paths, so that the room is made at the start, or "
                "merge it with `ferrule merge`.",
            )


def _info(adapter: Adapter, lora: PreparedLora) -> LoraInfo:
    return LoraInfo(
        content=adapter.content,
        location=adapter.location,
        base=adapter.report.trained_on,
        rank=adapter.rank,
        num_bytes=lora.num_bytes,
        num_added_tokens=len(adapter.added_tokens),
        vocab_size=adapter.vocab_size,
        files={name: str(path) for name, path in adapter.files.items()},
        kinds=adapter.report.kinds,
        summary=adapter.report.summary(),
        report=msgspec.to_builtins(adapter.report),
    )


def _copy(copies: list[Copy]) -> None:
    """Makes copies, holding the interpreter's lock for as short as can be."""
    if copies:
        targets, sources = zip(*copies, strict=True)
        torch._foreach_copy_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            list(targets), list(sources), non_blocking=True
        )


def _told(error: Exception, location: str) -> FerruleError:
    """The error as one of ours: whatever an adapter's files hold must not end the engine."""
    if isinstance(error, FerruleError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemoryError(
            f"The device's memory has no room for what {location} needs.",
            hint="Lower --device-memory-utilization or --max-loras.",
        )
    return LoadError(f"{location} cannot be read: {type(error).__name__}: {error}")
