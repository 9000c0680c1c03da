"""What TensorBoard shows of a run.

It is written by the thread that trains. The writer of tensorboardX has one of its own behind a queue: what it cannot
write, on a full disk, the queue waits for without end, and after an error it may speak of a handle that is closed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


class Board:
    """A file of events. The caller closes it.

    Args:
        folder: of the files, created if absent.
        step: what older files have after that step is not shown.

    Raises:
        OSError: it cannot be written, as of all methods.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._write(step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Those that are finite."""
        from tensorboardX.summary import scalar

        for name, value in values.items():
            if math.isfinite(value):
                self._write(step, summary=scalar(name, value))

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """(H, W) from 0 to 1."""
        from tensorboardX.summary import image as summary

        self._write(step, summary=summary(name, image.cpu().numpy(), dataformats="HW"))

    def flush(self) -> None:
        """See that all is on the disk."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), step=step, **what))
