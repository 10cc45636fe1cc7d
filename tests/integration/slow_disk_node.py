"""exchange-node whose commits take `COMMIT_SECONDS` while the file `SLOW_FILE` is there."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from exchange.journal.journal import Journal
from exchange.model.records import Record
from node.cli.main import main

_commit = Journal.commit


def commit(self: Journal, records: Sequence[Record]) -> None:
    if records and os.path.exists(os.environ["SLOW_FILE"]):  # noqa: PTH110
        time.sleep(float(os.environ["COMMIT_SECONDS"]))
    _commit(self, records)


if __name__ == "__main__":
    Journal.commit = commit  # type: ignore[method-assign]
    Journal.appends_only = False  # type: ignore[assignment] # as with JOURNAL_SYNC=full
    sys.exit(main())
