"""Downloads a model's files from the Hugging Face Hub into the cache, small ones first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from glob import escape
from pathlib import Path
from typing import Self

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from ferrule.checkpoint.hub_errors import HUB_ERRORS, explain_hub_error, is_unreachable
from ferrule.checkpoint.hub_progress import byte_counter
from ferrule.checkpoint.location import HubRepo
from ferrule.checkpoint.small_files import SMALL_FILES, TOKENIZERS, matches_any, read_config
from ferrule.checkpoint.stored_file import list_directory
from ferrule.checkpoint.weight_files import Wanted, WeightFiles, choose_weight_files
from ferrule.errors import CheckpointError

_PUBLIC_ENDPOINT = "https://huggingface.co"
_FIRST_FILES = (*SMALL_FILES, "*.safetensors.index.json", "adapter_config.json")
# Converted copies, original weights and images lie in directories of their own.
_NESTED = "*/*"


class Hub:
    """The Hub, or a mirror of it, and the cache of what was downloaded.

    The token is the library's business: HF_TOKEN, or what ``hf auth login`` stored.

    Args:
        endpoint: URL of the Hub.
        cache_dir: Where downloads are kept; None is the library's own place.
        offline: Only look into the cache.
        progress: Told of downloads: a stage, the fraction done or None, and what is being done.
    """

    def __init__(
        self,
        *,
        endpoint: str = _PUBLIC_ENDPOINT,
        cache_dir: Path | None = None,
        offline: bool = False,
        progress: Callable[[str, float | None, str], None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._cache_dir = cache_dir
        self._offline = offline
        self._progress = progress or _say_nothing

    @classmethod
    def from_environment(
        cls, progress: Callable[[str, float | None, str], None] | None = None
    ) -> Self:
        """Follows HF_ENDPOINT, HF_HUB_CACHE, HF_HOME and HF_HUB_OFFLINE as they are now.

        The library itself reads them once, when it is imported.
        """
        environment = os.environ
        cache = environment.get("HF_HUB_CACHE")
        if cache is None and "HF_HOME" in environment:
            cache = str(Path(environment["HF_HOME"]) / "hub")
        return cls(
            endpoint=environment.get("HF_ENDPOINT", _PUBLIC_ENDPOINT).rstrip("/"),
            cache_dir=Path(cache).expanduser() if cache else None,
            offline=environment.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
            progress=progress,
        )

    def fetch_checkpoint(
        self, repo: HubRepo, *, with_weights: bool = True, wanted: Wanted | None = None
    ) -> Path:
        """Fetches a model: from the cache if that has all of it, else from the Hub.

        Config, tokenizer and index come first; weights only when these show that the model can be
        opened. Without a connection, what the cache has is used if it can be opened.

        Args:
            repo: The repository.
            with_weights: Whether its weights are wanted, or only its config and tokenizer.
            wanted: Chooses among several GGUF files.

        Returns:
            A directory with the files.

        Raises:
            CheckpointError: The repository or revision does not exist, is not open to this user,
                cannot be reached, or holds nothing that can be opened.
        """
        cached = self._cached(repo)
        if cached is not None and _is_complete(repo, cached, wanted, with_weights=with_weights):
            return cached
        if self._offline and cached is not None and _can_open(repo, cached, with_weights, wanted):
            return cached
        try:
            return self._fetch(repo, wanted, with_weights=with_weights)
        except HUB_ERRORS as error:
            if (
                cached is not None
                and is_unreachable(error)
                and _can_open(repo, cached, with_weights, wanted)
            ):
                return cached
            raise explain_hub_error(error, repo, self._endpoint) from error

    def fetch_files(self, repo: HubRepo, names: list[str]) -> list[Path]:
        """Fetches files of a repository: from the cache if that has all of them, else from the Hub.

        Args:
            repo: The repository.
            names: The files, in directories of the repository or not.

        Returns:
            Where each file is.

        Raises:
            CheckpointError: As in :meth:`fetch_checkpoint`, or there is no such file.
        """
        cached = self._cached(repo)
        if cached is not None and all((cached / name).exists() for name in names):
            return [cached / name for name in names]
        try:
            sizes = self._sizes(repo)
            _check_listed(repo, names, sizes)
            folder = self._snapshot(repo, names, sizes)
        except HUB_ERRORS as error:
            raise explain_hub_error(error, repo, self._endpoint) from error
        return [folder / name for name in names]

    def _fetch(self, repo: HubRepo, wanted: Wanted | None, *, with_weights: bool) -> Path:
        sizes = {name: size for name, size in self._sizes(repo).items() if "/" not in name}
        small = [name for name in sizes if matches_any(name, _FIRST_FILES)]
        folder = self._snapshot(repo, small, sizes)
        folder.mkdir(parents=True, exist_ok=True)  # It is missing where there is no small file.
        if with_weights:
            files = _openable(repo, folder, sizes, wanted)
            # The commit, not the branch, which may move between the two downloads.
            self._snapshot(HubRepo(name=repo.name, revision=folder.name), files.names, sizes)
        return folder

    def _cached(self, repo: HubRepo) -> Path | None:
        try:
            # Without patterns, newer releases of the library refuse a partial snapshot.
            folder = snapshot_download(
                repo.name,
                revision=repo.revision,
                cache_dir=self._cache_dir,
                allow_patterns=[],
                local_files_only=True,
            )
        except LocalEntryNotFoundError:
            return None
        except HUB_ERRORS as error:
            raise explain_hub_error(error, repo, self._endpoint) from error
        return Path(folder)

    def _sizes(self, repo: HubRepo) -> dict[str, int]:
        if self._offline:
            raise LocalEntryNotFoundError("HF_HUB_OFFLINE is set")
        self._progress("download", None, f"looking up {repo.name}")
        api = HfApi(endpoint=self._endpoint)
        info = api.model_info(repo.name, revision=repo.revision, files_metadata=True)
        return {file.rfilename: file.size or 0 for file in info.siblings or []}

    def _snapshot(self, repo: HubRepo, names: Iterable[str], sizes: Mapping[str, int]) -> Path:
        counter = byte_counter(self._progress, total=sum(sizes[name] for name in names))
        folder = snapshot_download(
            repo.name,
            revision=repo.revision,
            endpoint=self._endpoint,
            cache_dir=self._cache_dir,
            allow_patterns=[escape(name) for name in names],
            tqdm_class=counter,
        )
        return Path(folder)


def _say_nothing(stage: str, fraction: float | None, detail: str) -> None:
    pass


def _is_complete(repo: HubRepo, folder: Path, wanted: Wanted | None, *, with_weights: bool) -> bool:
    """Whether nothing is left to ask the Hub for.

    A single GGUF file in the cache does not show that it is the repository's only one, and a
    missing tokenizer may only not have been downloaded, so both are looked up.
    """
    names = _names(folder)
    if "config.json" not in names or not any(matches_any(name, TOKENIZERS) for name in names):
        return False
    return not with_weights or _has_weights(repo, folder, names, ("safetensors",), wanted)


def _can_open(repo: HubRepo, folder: Path, with_weights: bool, wanted: Wanted | None) -> bool:
    kinds = ("safetensors", "gguf")
    return not with_weights or _has_weights(repo, folder, _names(folder), kinds, wanted)


def _has_weights(
    repo: HubRepo,
    folder: Path,
    names: list[str],
    kinds: tuple[str, ...],
    wanted: Wanted | None,
) -> bool:
    try:
        return choose_weight_files(_where(repo), folder, names, wanted).kind in kinds
    except CheckpointError:
        # Nothing is lost: the same files are judged again once the Hub has been asked for more.
        return False


def _openable(
    repo: HubRepo, folder: Path, names: Iterable[str], wanted: Wanted | None
) -> WeightFiles:
    where = _where(repo)
    files = choose_weight_files(where, folder, list(names), wanted)
    if files.kind == "safetensors":
        read_config(where, folder)
    return files


def _names(folder: Path) -> list[str]:
    # A link whose target was deleted from the cache does not exist.
    names = list_directory(folder) if folder.is_dir() else []
    return [name for name in names if (folder / name).exists()]


def _where(repo: HubRepo) -> str:
    return repo.name if repo.revision is None else f"{repo.name}@{repo.revision}"


def _check_listed(repo: HubRepo, names: list[str], listed: Iterable[str]) -> None:
    listed = [name for name in listed if name.endswith((".safetensors", ".gguf"))]
    missing = [name for name in names if name not in listed]
    if missing:
        near = get_close_matches(missing[0], listed, n=3) or listed[:10]
        raise CheckpointError(
            f"{_where(repo)} on the Hub has no file {', '.join(missing)}.",
            hint=f"It has: {', '.join(near)}." if near else "It has no weight file at all.",
        )
