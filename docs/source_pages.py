"""A hook of mkdocs: source files that a page links to become pages of the site.

In the repository a link such as ``../../core/ferrule/plan.py`` leads to the file itself. The site
has no such file, so it gets a page with the file's text, and the link is turned to it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\]\((?P<target>(?:\.\./)+[^)#\s]+\.(?:py|toml))\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every source file that a page links to."""
    for path in sorted({path for file in list(files) for path in _linked(file)}):
        files.append(File.generated(config, _page_of(path), content=_text(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to source files to their pages."""
    here = page.file.src_uri

    def turned(match: re.Match[str]) -> str:
        path = _source(here, match["target"])
        if path is None:
            return match[0]
        return f"]({os.path.relpath(_page_of(path), posixpath.dirname(here) or '.')})"

    return _LINK.sub(turned, markdown)


def _linked(file: File) -> Iterator[str]:
    if file.is_documentation_page() and file.abs_src_path is not None:
        for match in _LINK.finditer(Path(file.abs_src_path).read_text()):
            if (path := _source(file.src_uri, match["target"])) is not None:
                yield path


def _source(page: str, target: str) -> str | None:
    """The linked file's path below the repository; None if it is not there."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    is_ours = not path.startswith("..") and (ROOT / path).is_file()
    return path if is_ours else None


def _page_of(path: str) -> str:
    return f"source/{path}.md"


def _text(path: str) -> str:
    language = "toml" if path.endswith(".toml") else "python"
    # A fence longer than any that a docstring holds; the search is for the pages about it.
    return (
        f"---\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n"
        f'``````{language} linenums="1"\n{(ROOT / path).read_text()}``````\n'
    )
