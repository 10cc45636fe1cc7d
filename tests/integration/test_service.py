"""A node under a service manager: notifications, the ready line, signals, log file, unit file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT

from node.cli.service_unit import unit

OPTIONS = ("--p2p-host", "127.0.0.1", "--p2p-port", "0", "--api-port", "0", "--no-mdns")


def start(
    data_dir: Path, *more: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "node.cli.main", "start", "--data-dir", str(data_dir)]
    return subprocess.Popen(
        [*command, *OPTIONS, *more],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ready(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    found: dict[str, object] = json.loads(process.stdout.readline())
    return found


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGTERM])
def test_start_prints_one_line_of_json_and_ends_in_order(
    tmp_path: Path, how: signal.Signals
) -> None:
    process = start(tmp_path / "a", "--json")
    line = ready(process)
    assert line["event"] == "ready"
    assert line["pid"] == process.pid
    assert str(line["api_url"]).startswith("http://127.0.0.1:")
    assert (tmp_path / "a" / "node.json").exists()
    process.send_signal(how)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, "", "")
    assert not (tmp_path / "a" / "node.json").exists()


def test_a_manager_is_notified_of_ready_watchdog_status_and_stop(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}
        process = start(tmp_path / "a", "--json", environment=environment)
        first = manager.recv(4096).decode().splitlines()
        assert first[0] == "READY=1"
        assert first[1].startswith("STATUS=0 peers, API at http")
        ready(process)
        beats = [manager.recv(4096).decode() for _ in range(3)]
        assert all(beat.startswith("WATCHDOG=1\nSTATUS=") for beat in beats)
        process.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in manager.recv(4096).decode():
            pass
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_the_log_file_is_private_and_rotated(tmp_path: Path) -> None:
    log_file = tmp_path / "logs" / "node.log"
    options = ("--json", "--log-file", str(log_file), "--log-level", "debug")
    process = start(tmp_path / "a", *options, environment={"LOG_FILE_COUNT": "2"})
    ready(process)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=20)
    assert errors == ""
    assert log_file.stat().st_mode & 0o777 == 0o600
    assert log_file.read_text()


def test_a_log_file_that_cannot_be_written_ends_the_start_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = start(tmp_path / "a", "--log-file", str(tmp_path / "file" / "node.log"))
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.startswith("exchange-node: cannot write the log file")
    assert errors.count("\n") == 1


def test_a_key_can_come_from_the_managers_credentials(tmp_path: Path) -> None:
    process = start(tmp_path / "a", "--json")
    first = ready(process)["node_id"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    shutil.move(tmp_path / "a" / "node.key", credentials / "node.key")
    process = start(
        tmp_path / "a", "--json", environment={"CREDENTIALS_DIRECTORY": str(credentials)}
    )
    assert ready(process)["node_id"] == first
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert not (tmp_path / "a" / "node.key").exists()


@pytest.mark.parametrize(
    ("name", "user"), [("exchange-node.service", False), ("exchange-node.user.service", True)]
)
def test_the_deployed_units_are_those_that_the_command_prints(name: str, user: bool) -> None:
    deployed = (ROOT / "deploy" / name).read_text()
    assert deployed == unit("/usr/local/bin/exchange-node", user=user)
    printed = subprocess.run(
        [sys.executable, "-m", "node.cli.main", "service", "print", *(["--user"] if user else [])],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # These depend on where the program lies.
    own = ("ExecStart=", "ProtectHome=", "BindReadOnlyPaths=", "# The program lies")
    assert [line for line in printed.splitlines() if not line.startswith(own)] == [
        line for line in deployed.splitlines() if not line.startswith(own)
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_rates_the_unit_as_hardened() -> None:
    rated = subprocess.run(
        [
            "systemd-analyze", "security", "--offline=true", "--threshold=15",
            str(ROOT / "deploy" / "exchange-node.service"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout[-300:] + rated.stderr
