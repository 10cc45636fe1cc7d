"""exchange-node whose journal's disk is full while the file `FULL_FILE` is there."""

from __future__ import annotations

import errno
import os
import sys
import time

from exchange.journal import write_ahead_log
from node.cli.main import main

_write_all = write_ahead_log.write_all


def write_all(fd: int, data: bytes) -> None:
    if os.path.exists(os.environ["FULL_FILE"]):  # noqa: PTH110
        _write_all(fd, data[: len(data) // 2])
        time.sleep(0.5)  # others come meanwhile
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _write_all(fd, data)


if __name__ == "__main__":
    write_ahead_log.write_all = write_all
    sys.exit(main())
