"""Puts a checkpoint up for serving: the port first, then headers and text, then the engine, whose
process is on its way already."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import signal
import socket
import time
from contextlib import closing
from pathlib import Path

import msgspec
import uvloop

from ferrule.checkpoint.adapter_base import find_base, is_adapter
from ferrule.checkpoint.location import HubRepo, find_location
from ferrule.checkpoint.open import open_checkpoint
from ferrule.cli.progress import Display, start_display
from ferrule.cli.server_flags import LogLevel, ServerOptions
from ferrule.cli.summary import show_summary
from ferrule.engine.client import EngineClient
from ferrule.engine.launch import EngineLaunch
from ferrule.engine.messages import EngineInfo, Progress
from ferrule.engine.options import EngineOptions
from ferrule.frontend.model import ServedModel, served_model
from ferrule.server.app import create_service
from ferrule.server.listen import listen
from ferrule.server.lora_updates import LoraUpdates
from ferrule.server.serve import HttpServer

_PART = re.compile(r"-\d{5}-of-\d{5}$")


def serve_model(
    launch: EngineLaunch,
    options: EngineOptions,
    server: ServerOptions,
    *,
    name: str | None = None,
    chat_template: Path | None = None,
    lora_updates: LoraUpdates | None = None,
) -> int:
    """Serves until Ctrl-C or SIGTERM.

    Args:
        launch: The engine's process.
        options: Of the engine.
        server: Where to listen, how to log and stop.
        name: What requests call the model; None: after where it comes from.
        chat_template: A file that overrules the checkpoint's own template.
        lora_updates: Which adapters clients may load; None: they may change nothing.

    Returns:
        The exit status.

    Raises:
        FerruleError: The port, the checkpoint, the options or the engine are at fault.
    """
    _set_up_logging(server)
    with closing(listen(server.host, server.port)) as sock, start_display() as display:
        options, name = beneath_adapter(options, display, name=name)
        model, options = open_text_side(options, display, name=name, chat_template=chat_template)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(launch, model, options, server, sock, display, lora_updates))


def model_name(location: str) -> str:
    """``org/name``, or a directory's or file's name."""
    found = find_location(location)
    if isinstance(found, HubRepo):
        return found.name
    path = found.resolve()
    return _PART.sub("", path.stem) if path.is_file() else path.name


def beneath_adapter(
    options: EngineOptions, display: Display, *, name: str | None = None
) -> tuple[EngineOptions, str | None]:
    """Where the model is an adapter by itself, its base as the model and the adapter beside it.

    Args:
        options: Of the engine.
        display: Told of each stage.
        name: What requests call what is served; None: after where it comes from.

    Returns:
        The options, and what requests call the model in them.
    """

    def progress(stage: str, fraction: float | None, detail: str) -> None:
        display.report(Progress(stage, fraction, detail))

    location = options.model
    if options.weight_path is not None or not is_adapter(location, progress):
        return options, name
    base = find_base(location, progress)
    display.say(f"{location} is an adapter; its base is {base}")
    paths = ((name or model_name(location), location), *options.lora_paths)
    return msgspec.structs.replace(
        options, model=base, enable_lora=True, lora_paths=paths
    ), model_name(base)


def open_text_side(
    options: EngineOptions,
    display: Display,
    *,
    name: str | None = None,
    chat_template: Path | None = None,
) -> tuple[ServedModel, EngineOptions]:
    """Opens the checkpoint here too: what is wrong with it shows before an engine is started.

    Args:
        options: Of the engine.
        display: Told of each stage.
        name: What requests call the model; None: after where it comes from.
        chat_template: A file that overrules the checkpoint's own template.

    Returns:
        The model's text side, and the options with what the engine must know of it.
    """
    display.report(Progress("opening the checkpoint", detail=options.model))
    checkpoint = open_checkpoint(
        options.model,
        weight_path=options.weight_path,
        quantization_encoding=options.quantization_encoding,
        progress=lambda stage, fraction, detail: display.report(Progress(stage, fraction, detail)),
    )
    display.report(Progress("reading the tokenizer"))
    model = served_model(
        checkpoint,
        names=[name or model_name(options.model)],
        created=int(time.time()),
        chat_template=chat_template,
    )
    for warning in _missing(model):
        display.say(f"warning: {warning}", style="yellow")
    if model.tokenizer is not None:
        known = model.tokenizer.vocab_size
        options = msgspec.structs.replace(options, num_known_tokens=known)
    return model, options


async def start_engine(
    engine: EngineClient, launch: EngineLaunch, options: EngineOptions, display: Display
) -> EngineInfo:
    """Tells the engine process what to run and waits until it is ready.

    Args:
        engine: Not started yet.
        launch: The process.
        options: As ``open_text_side`` returns them.
        display: Told of each stage.
    """
    display.report(Progress("starting the engine"))
    return await engine.start(launch, msgspec.msgpack.encode(options), display.report)


def _missing(model: ServedModel) -> list[str]:
    if model.tokenizer is None:
        return [
            f"{model.name} has no tokenizer, so token ids are served and text is refused; "
            'send them to /v1/completions with "return_token_ids": true'
        ]
    if model.template is None:
        return [
            f"{model.name} has no chat template, so /v1/completions is served and chat is "
            "refused; --chat-template FILE sets one"
        ]
    return []


async def _serve(
    launch: EngineLaunch,
    model: ServedModel,
    options: EngineOptions,
    server: ServerOptions,
    sock: socket.socket,
    display: Display,
    lora_updates: LoraUpdates | None,
) -> int:
    engine = EngineClient()
    service = create_service(model, engine, lora_updates=lora_updates)
    http = HttpServer(
        service, sock, shutdown_seconds=server.shutdown_timeout, access_log=server.access_log
    )

    def on_ready(info: EngineInfo) -> None:
        display.close()
        show_summary(model, info, host=server.host, port=sock.getsockname()[1])
        # What is there now stays; a search through it would hold up every stream for 0.1 s.
        gc.collect()
        gc.freeze()

    stops = 0

    def stop(number: int) -> None:
        nonlocal stops
        stops += 1
        if stops == 1:
            display.close()
            display.say(_last_words(len(service.running), server.shutdown_timeout))
        http.stop(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return await http.run(lambda: start_engine(engine, launch, options, display), on_ready)


def _last_words(num_running: int, seconds: float) -> str:
    if not num_running:
        return "stopping: no requests are running"
    are = "request is" if num_running == 1 else "requests are"
    return (
        f"stopping: {num_running} running {are} finishing, for {seconds:g} s at most; "
        "Ctrl-C again ends at once"
    )


def _set_up_logging(server: ServerOptions) -> None:
    level = server.log_level.upper()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("ferrule").setLevel(level)
    # Below warnings uvicorn tells what the display and the summary tell already.
    chatty = level if server.log_level is not LogLevel.info else "WARNING"
    logging.getLogger("uvicorn.error").setLevel(chatty)
    logging.getLogger("uvicorn.access").setLevel("INFO")
