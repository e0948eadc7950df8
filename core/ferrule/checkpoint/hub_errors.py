"""What an error of the Hub's client means to a user, and the next step."""

from __future__ import annotations

from huggingface_hub import get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    # Of httpx or httpx2, whichever the installed huggingface_hub uses.
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ferrule.checkpoint.location import HubRepo
from ferrule.errors import CheckpointError

HUB_ERRORS = (HTTPError, EntryNotFoundError, HFValidationError, OSError)
"""What a download may raise: answers of the Hub, no answer, an invalid name, or a full disk."""


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub gave no usable answer, so that another attempt may succeed."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, HTTPError | OfflineModeIsEnabled | LocalEntryNotFoundError)


def explain_hub_error(error: Exception, repo: HubRepo, endpoint: str) -> CheckpointError:
    """Says what went wrong with a repository, and what to do.

    Args:
        error: One of HUB_ERRORS.
        repo: The repository that was asked for.
        endpoint: The Hub's URL.
    """
    url = f"{endpoint}/{repo.name}"
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"{repo.name} is a gated repository: its owner grants access on request.",
            hint=f"Accept its terms at {url}, {_with_token()}, and try again.",
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(
            f"{repo.name} has no revision '{repo.revision or 'main'}' (branch, tag or commit).",
            hint=f"See {url}/tree/main for what there is.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"There is no model repository {repo.name} at {endpoint}, or it is private.",
            hint=f"Check the spelling. If it is private, {_with_token()}."
            f" If you mean a directory here, write ./{repo.name}.",
        )
    if isinstance(error, HFValidationError):
        return CheckpointError(f"'{repo.name}' cannot be a repository's name: {error}")
    if isinstance(error, HfHubHTTPError) and not is_unreachable(error):
        return _refused(error, repo, endpoint)
    if is_unreachable(error):
        return _unreachable(error, repo, endpoint)
    return CheckpointError(f"{repo.name} could not be downloaded: {error}")


def _refused(error: HfHubHTTPError, repo: HubRepo, endpoint: str) -> CheckpointError:
    status = error.response.status_code
    hint = {
        401: "The token is not valid: set HF_TOKEN to a new one, or unset it.",
        403: "The token lacks the permission to read this repository.",
        429: "Wait some minutes; with HF_TOKEN set, the Hub allows more requests.",
    }
    return CheckpointError(
        f"{endpoint} refused {repo.name} with HTTP status {status}:"
        f" {error.server_message or str(error).strip().splitlines()[0]}",
        hint=hint.get(status, ""),
    )


def _unreachable(error: Exception, repo: HubRepo, endpoint: str) -> CheckpointError:
    if isinstance(error, OfflineModeIsEnabled) or "HF_HUB_OFFLINE" in str(error):
        return CheckpointError(
            f"HF_HUB_OFFLINE is set, and the cache does not have all of {repo.name}.",
            hint="Unset HF_HUB_OFFLINE to download it, or give a local directory.",
        )
    return CheckpointError(
        f"{repo.name} is not in the cache, and {endpoint} cannot be reached:"
        f" {error.__cause__ or error}",
        hint="Check the network and the proxy settings (HTTPS_PROXY), set HF_ENDPOINT to a mirror,"
        " or give a local directory.",
    )


def _with_token() -> str:
    if get_token() is None:
        return "set HF_TOKEN to a token of an account that has access"
    return "make sure that the account of the token in use (HF_TOKEN) has access"
