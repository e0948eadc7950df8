"""``python -m ferrule`` and the command ``ferrule``."""

from __future__ import annotations

from ferrule.cli.main import app


def main() -> None:
    """Runs one command and exits with its status."""
    app(prog_name="ferrule")


if __name__ == "__main__":
    main()
