"""Runs programs in Triton's interpreter, each in a process of its own.

    python tests/core/interpreter.py

reads a line of JSON for each program, ``{"source": TEXT, "file": NAME}``, and answers with a line
``{"status": EXIT STATUS, "output": TEXT}``.

TRITON_INTERPRET must be set before triton is imported and would stay for everything after it, so
programs cannot run in the process of the tests. Importing torch and triton takes seconds: this
process does so once, and forks for every program.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import IO


def main() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    warnings.simplefilter("ignore")
    import torch  # noqa: F401 - for the programs
    from triton.runtime import interpreter

    leave_out_what_costs_most(interpreter)
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile("w+") as output:
            status = run_apart(asked["source"], asked["file"], output)
            output.seek(0)
            answer = {"status": status, "output": output.read()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def leave_out_what_costs_most(interpreter) -> None:
    """Half of the interpreter's time, and nothing that a result depends on.

    It adds 32-bit numbers a second time in 64 bits to see whether they fit. And at every call of a
    function it looks at all names of ``triton.language`` for what it must replace.
    """
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    is_builtin = interpreter.tl.core.is_builtin
    names: dict[object, list[str]] = {}

    def patch_builtin(package, builder, *scope) -> None:
        if package not in names:
            names[package] = [
                name for name, value in inspect.getmembers(package) if is_builtin(value)
            ]
        for name in names[package]:
            if is_builtin(value := getattr(package, name)):
                interpreter._patch_attr(package, name, value, builder, *scope)

    interpreter._patch_builtin = patch_builtin


def run_apart(source: str, file: str, output: IO[str]) -> int:
    """The exit status of a program in a copy of this process; what it writes goes to ``output``."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    status = 1
    try:
        sys.path.insert(0, str(Path(file).parent))
        exec(compile(source, file, "exec"), {"__name__": "__main__", "__file__": file})
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
