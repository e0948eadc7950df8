"""One tree of errors: what was found, what was expected, and the next step.

FerruleError
├── CheckpointError          the files: missing, truncated, corrupt, refused
├── ConfigError              a config key that is missing, contradictory or not understood
├── PluginError              an entry point that fails, a misspelled hook, a name taken twice
├── MatchError               no pair, or more than one, of architecture and weight adapter
├── LoadError                missing, surplus or misshaped tensors
├── TokenizerError           a vocabulary or chat template that cannot be built or applied
├── OptionError              a flag or argument that cannot be honoured
├── OutOfMemoryError         weights or KV cache do not fit; the message says what would
├── RequestError             one bad request (HTTP 400); nothing else is touched
│   ├── ModelNotFoundError   HTTP 404
│   └── ContextLengthError   prompt plus completion exceed the context
├── EngineStartingError      the engine is not ready yet (HTTP 503, try again)
└── EngineDeadError          the engine process has ended; the cause is in the message
"""

from __future__ import annotations


class FerruleError(Exception):
    """Any error that a user can act on.

    Args:
        message: What was found and what was expected, one or more lines.
        hint: The next step, shown on a line of its own; empty when there is none.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class CheckpointError(FerruleError):
    """The checkpoint's files are missing, truncated, corrupt or of a refused kind."""


class ConfigError(FerruleError):
    """A config key is missing, contradicts the tensors or is not understood."""


class PluginError(FerruleError):
    """A plugin cannot be used; the message names its distribution."""


class MatchError(FerruleError):
    """Not exactly one pair of architecture and weight adapter fits the checkpoint."""


class LoadError(FerruleError):
    """The checkpoint's tensors are not those that the model takes."""


class TokenizerError(FerruleError):
    """A tokenizer or chat template is missing, broken or unknown."""


class OptionError(FerruleError):
    """A flag or argument cannot be honoured."""


class OutOfMemoryError(FerruleError):
    """Weights or KV cache do not fit into the memory that is free."""


class EngineStartingError(FerruleError):
    """The engine is not ready yet; the request can be sent again."""


class EngineDeadError(FerruleError):
    """The engine process has ended; no request can be served any more."""


class RequestError(FerruleError):
    """One request is wrong; it is answered and nothing else is touched.

    Args:
        message: What was found and what was expected.
        param: The field at fault, as a path such as ``messages[0].content``.
        code: OpenAI's machine-readable code, such as ``context_length_exceeded``.
        hint: The next step.
    """

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.param = param
        self.code = code


class ModelNotFoundError(RequestError):
    """The request names a model that is not served."""


class ContextLengthError(RequestError):
    """Prompt and completion together do not fit into the context."""


def known_name(error: FerruleError) -> str:
    """The nearest class of this module; a plugin's own class is unknown elsewhere."""
    return next(c.__name__ for c in type(error).__mro__ if c.__module__ == __name__)
