"""The node's part of an export: a process for each sink, and its figures.

The processes end with the node, whatever ends that: they read their standard input, which the system closes then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from config import Settings
from exchange.journal.journal import Journal, Retention
from node.annexes.export import position_file
from node.annexes.export.order_traces import OrderTraceLines
from node.annexes.export.settings import ExportSettings
from node.annexes.export.sinks import KINDS, address, configured, progress_path
from node.streams.stream_messages import TickerView
from node.views.node_views import ExportView, SinkName

log = logging.getLogger(__name__)

RESTART: Final = (
    1.0,
    5.0,
    30.0,
)  # s until a process that ended is started again, then the next time ...
STABLE: Final = 60.0  # s after which a process that ends counts as the first again
PATIENCE: Final = 10.0  # s that the process gets to deliver the rest when the node stops
MAX_WAITING: Final = 1 << 20  # bytes of lines that a process has not read
TICKERS: Final = 1.0  # s between looks at the tickers
STALE: Final = 15.0  # s without a word from the process, after which it counts as stuck


def retention(settings: Settings) -> Retention | None:
    """Return the log to keep for the sink that is furthest behind; None without sinks."""
    settings = settings.of(ExportSettings)
    paths = [progress_path(settings, name) for name in configured(settings)]
    if not paths:
        return None

    def reader_at() -> int:
        found = [position_file.read(path) for path in paths]
        return min(0 if progress is None else progress.frame for progress in found)

    return Retention(reader_at, settings.export_log_kept << 20)


class Exports:
    """The exports of a node, one for each sink of the settings."""

    def __init__(
        self,
        settings: ExportSettings,
        journal: Journal,
        tickers: Callable[[], Iterable[TickerView]] = tuple,
    ) -> None:
        """`tickers` returns the figures of every market."""
        self._traces = OrderTraceLines()
        self._processes = [
            ExportProcess(
                settings,
                journal,
                name,
                TickerLines(tickers) if name == "nats-market" else None,
                self._traces if name == "nats-copy" else None,
            )
            for name in configured(settings)
        ]

    def trace_order(self, order: int, traceparent: str) -> None:
        """Give messages about an own order its trace context."""
        self._traces.note(order, traceparent)

    def start(self) -> None:
        """Start the processes, and again whenever one ends."""
        for process in self._processes:
            process.start()

    async def close(self) -> None:
        """End the processes, with the rest of the journal delivered to sinks that take it."""
        await asyncio.gather(*(process.close() for process in self._processes))

    def views(self) -> list[ExportView]:
        """Return how far each export is."""
        return [process.view() for process in self._processes]


class TickerLines:
    """Lines of the tickers that changed since the last ones."""

    def __init__(self, tickers: Callable[[], Iterable[TickerView]]) -> None:
        self._tickers = tickers
        self._sent: dict[str, TickerView] = {}

    def clear(self) -> None:
        """Forget the sent tickers, so that all are sent again."""
        self._sent = {}

    def changed(self) -> bytes:
        """Return the lines, complete."""
        lines = []
        for ticker in self._tickers():
            before = self._sent.get(ticker.market)
            if before is None or msgspec.structs.replace(before, time=ticker.time) != ticker:
                self._sent[ticker.market] = ticker
                lines.append(msgspec.json.encode(ticker) + b"\n")
        return b"".join(lines)


class ExportProcess:
    """Runs `exchange-node export run` beside the node. The address of the sink goes through the environment."""

    def __init__(
        self,
        settings: ExportSettings,
        journal: Journal,
        sink: SinkName,
        tickers: TickerLines | None = None,
        traces: OrderTraceLines | None = None,
    ) -> None:
        self._settings = settings
        self._traces = traces
        self._tickers = tickers
        self._sink: SinkName = sink
        self._progress = progress_path(settings, sink)
        self._journal = journal
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = time.time()

    def start(self) -> None:
        """Start the process, and again whenever it ends."""
        self._task = asyncio.create_task(self._keep(), name=f"export to {self._sink}")

    async def _keep(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "node.cli.main", "export", "run", "--sink", self._sink),
                *("--data-dir", str(self._settings.data_dir), "--until-eof"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                env={**os.environ, KINDS[self._sink].setting: address(self._settings, self._sink)},
            )
            self._process = process
            if self._traces is not None:
                self._traces.connect(partial(_write, process))
            code = await self._wait(process)
            failures = 1 if time.monotonic() - began > STABLE else failures + 1
            log.warning(
                "the export to %s ended with code %s; it is started again", self._sink, code
            )
            await asyncio.sleep(RESTART[min(failures, len(RESTART)) - 1])

    async def _wait(self, process: asyncio.subprocess.Process) -> int:
        """Wait for the end of the process, and give it the tickers meanwhile."""
        if self._tickers is None:
            return await process.wait()
        self._tickers.clear()
        while True:
            with suppress(TimeoutError):
                return await asyncio.wait_for(process.wait(), TICKERS)
            assert process.stdin is not None  # noqa: S101 - a pipe
            if not process.stdin.transport.get_write_buffer_size():
                with suppress(OSError):
                    process.stdin.write(self._tickers.changed())

    async def close(self) -> None:
        """End the process, with the rest of the journal delivered if the sink takes it."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None  # noqa: S101 - a pipe
        process.stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def view(self) -> ExportView:
        """Return how far the export is."""
        progress = position_file.read(self._progress)
        now = time.time()
        if progress is None or progress.written < self._started:
            return ExportView(
                sink=self._sink,
                state="starting",
                position=0 if progress is None else progress.frame,
                behind=self._journal.committed - (0 if progress is None else progress.frame),
                lag_s=None if progress is None else _since(progress.delivered, now),
                rows=0,
                aside=0,
                error="",
            )
        behind = max(0, self._journal.committed - progress.frame)
        error = progress.error
        if not error and now - progress.written > STALE:
            error = "the export process does not answer"
        return ExportView(
            sink=self._sink,
            state="away" if error else "running",
            position=progress.frame,
            behind=behind,
            lag_s=0.0 if not behind else _since(progress.delivered, now),
            rows=progress.rows,
            aside=progress.aside,
            error=error,
        )


def _write(process: asyncio.subprocess.Process, data: bytes) -> None:
    """Write to a process at once. What a process that does not read would make wait in memory is left out."""
    assert process.stdin is not None  # noqa: S101 - a pipe
    transport = process.stdin.transport
    if not transport.is_closing() and transport.get_write_buffer_size() < MAX_WAITING:
        with suppress(OSError):
            process.stdin.write(data)


def _since(delivered: float, now: float) -> float | None:
    return round(max(0.0, now - delivered), 1) if delivered else None
