import json
import logging
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from peer_network import node_id

from p2p.addresses.peer_storage import MAX_FILE, PeerStorage, StoredPeer, epoch, moment
from p2p.base.identity import is_node_id

PEERS = [
    StoredPeer(
        node_id("a"), "192.0.2.1", 3000, datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC), 2, "mdns"
    ),
    StoredPeer(node_id("b"), "2001:db8::1", 3001),
    StoredPeer(node_id("b"), "2001:db8::1", 3100, carrier="grenache"),
]


@pytest.fixture
def storage(tmp_path):
    return PeerStorage(tmp_path / ".peers.json")


def damaged(storage):
    return list(storage.path.parent.glob(".peers.json.damaged-*"))


def test_saved_peers_are_loaded(storage):
    storage.save(PEERS)
    assert storage.load() == PEERS


def test_a_missing_file_is_no_peers_and_no_warning(storage, caplog):
    assert storage.load() == []
    assert caplog.records == []


def test_the_file_is_for_its_owner_only_and_nothing_is_left_beside_it(storage):
    storage.path.with_name(".peers.json.new").write_text("left by a crash")
    old = os.umask(0)
    try:
        storage.save(PEERS)
    finally:
        os.umask(old)
    assert stat.S_IMODE(storage.path.stat().st_mode) == 0o600
    assert [p.name for p in storage.path.parent.iterdir()] == [".peers.json"]


def test_the_file_is_readable_json_with_a_version(storage):
    storage.save(PEERS)
    text = storage.path.read_text()
    assert json.loads(text)["version"] == 1
    assert json.loads(text)["peers"][0] == {
        "nodeId": node_id("a"),
        "address": "192.0.2.1",
        "port": 3000,
        "lastSuccess": "2025-01-02T03:04:05Z",
        "failures": 2,
        "source": "mdns",
        "carrier": "tcp",
    }
    assert len(text.splitlines()) > 10


def test_a_failed_save_leaves_the_old_file(storage, monkeypatch):
    storage.save(PEERS)

    def broken(fd):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        storage.save([])
    monkeypatch.undo()
    assert storage.load() == PEERS


def test_an_older_save_that_comes_late_does_not_overwrite_a_newer_one(storage):
    storage.save(PEERS, serial=2)
    storage.save([], serial=1)
    assert storage.load() == PEERS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{not json", "JSON is malformed"),
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"version": 1}', "peers"),
        (b'{"version": 2, "peers": []}', "version 2"),
        (b'{"version": 1, "peers": 5}', "array"),
        (b"\xff\xfe", "malformed"),
        (b" " * (MAX_FILE + 1), "longer than"),
    ],
)
def test_a_damaged_file_is_set_aside_with_a_warning_that_names_it(storage, caplog, content, words):
    storage.path.write_bytes(content)
    assert storage.load() == []
    (aside,) = damaged(storage)
    assert aside.read_bytes() == content
    assert not storage.path.exists()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(aside) in record.getMessage()
    assert words in record.getMessage()
    storage.save(PEERS)
    assert storage.load() == PEERS


def test_two_damaged_files_are_both_kept(storage):
    for content in (b"one", b"two"):
        storage.path.write_bytes(content)
        storage.load()
    assert sorted(p.read_bytes() for p in damaged(storage)) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodeId": "nonsense"}, "not a node id"),
        ({"port": 0}, "port 0"),
        ({"port": 70000}, "port 70000"),
        ({"port": "3000"}, "port"),
        ({"address": ""}, "not the address"),
        ({"address": "0.0.0.0"}, "not the address"),
        ({"lastSuccess": "yesterday"}, "lastSuccess"),
        ({"carrier": "pigeon"}, "pigeon"),
    ],
)
def test_an_entry_that_makes_no_sense_is_left_out_and_the_others_are_kept(
    storage, caplog, change, words
):
    storage.save(PEERS)
    file = json.loads(storage.path.read_text())
    file["peers"][0].update(change)
    storage.path.write_text(json.dumps(file))
    assert storage.load() == PEERS[1:]
    assert "entry 1" in caplog.text
    assert words in caplog.text


def test_an_entry_without_a_carrier_is_for_tcp(storage):
    storage.save(PEERS)
    file = json.loads(storage.path.read_text())
    del file["peers"][0]["carrier"]
    storage.path.write_text(json.dumps(file))
    assert storage.load() == PEERS


def test_a_file_that_cannot_be_read_is_an_error_and_stays(storage):
    storage.path.mkdir()
    with pytest.raises(OSError, match="directory"):
        storage.load()
    assert storage.path.exists()


def test_times_survive_in_whole_seconds_and_are_never_in_the_future():
    assert epoch(moment(1_700_000_000.9)) == 1_700_000_000.0
    assert epoch(None) is moment(None) is None
    assert epoch(datetime(2999, 1, 1, tzinfo=UTC)) < 32_000_000_000


def test_the_example_in_the_repository_loads_without_a_warning(caplog):
    example = Path(__file__).parents[4] / ".peers.json.example"
    peers = PeerStorage(example).load()
    assert len(peers) == 2
    assert all(is_node_id(peer.node_id) for peer in peers)
    assert all(peer.address.startswith("192.0.2.") for peer in peers)
    assert caplog.records == []
