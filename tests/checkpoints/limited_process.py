"""A process with little memory and time that loads files which ask for much of both."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path

SECONDS = 60  # the slowest file takes about five on a busy machine; an endless one takes centuries
SCRIPT = """
import resource, sys
import yolopose
from yolopose import checkpoints  # imports what load needs before the limit
from yolopose.runtime.errors import CheckpointError
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), now + (1 << 30)))
print("ready", flush=True)
for line in sys.stdin:
    try:
        yolopose.load(line.rstrip("\\n"))
        print("loaded", flush=True)
    except CheckpointError as error:
        print("refused:", str(error).replace("\\n", " "), flush=True)
    except BaseException as error:
        print(type(error).__name__, str(error)[:200].replace("\\n", " "), flush=True)
"""


class LimitedProcess:
    """A process with one gigabyte of memory that loads checkpoints; started again after it ended."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def load(self, path: Path) -> str:
        """The result for one file: "refused: ...", "loaded", another exception, "died (code)" or "hangs"."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert self._answer() == "ready"
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            code = self.process.poll()
            self.close()
            return f"died ({code})" if ready else "hangs"
        return line.rstrip("\n")

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None
