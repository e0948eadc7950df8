"""An engine process on its way: started before anybody knows what it is to run.

Its libraries take seconds to import. A server starts it first, and reads the checkpoint's headers
and tokenizer meanwhile.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ferrule.engine.child import Child


class EngineLaunch:
    """A process that listens at an address for its options, and waits for them.

    Args:
        command: Program and arguments; the address to listen at and our process id, with which the
            process is to end, are added to them.
        environment: Variables for the process where ours has none of the name.

    Attributes:
        address: Where it will listen.
        child: The process.

    Raises:
        OSError: There is no such program.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        # The directory, and so the socket in it, is for this user alone to enter.
        self._directory = Path(tempfile.mkdtemp(prefix="ferrule-"))
        self.address = f"ipc://{self._directory}/engine"
        try:
            self.child = Child([*command, self.address, str(os.getpid())], environment)
        except OSError:
            self._directory.rmdir()
            raise

    def close(self) -> None:
        """Kills the process, if it has not ended, and removes the directory."""
        self.child.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
