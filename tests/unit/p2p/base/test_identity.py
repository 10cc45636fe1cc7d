"""The node's key on disk and the id that it proves."""

from __future__ import annotations

import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from p2p.base.identity import NODE_ID_LENGTH, Identity, is_node_id, node_id_of, verify


def test_a_new_key_is_written_for_its_owner_only(tmp_path):
    path = tmp_path / "node.key"
    made = Identity.generate()
    made.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load(path).node_id == made.node_id
    assert [p.name for p in tmp_path.iterdir()] == ["node.key"]


def test_a_key_that_others_can_read_is_refused_with_the_mend(tmp_path):
    path = tmp_path / "node.key"
    Identity.generate().save(path)
    path.chmod(0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        Identity.load(path)


def test_a_draft_left_by_a_crash_does_not_stop_the_next_start(tmp_path):
    (tmp_path / "node.key.new").write_text("half a key")
    made = Identity.generate()
    made.save(tmp_path / "node.key")
    assert Identity.load(tmp_path / "node.key").node_id == made.node_id


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_damaged_key_file_is_named(tmp_path, content):
    path = tmp_path / "node.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match=r"node\.key is not a private key"):
        Identity.load(path)


def test_a_key_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "node.key"
    path.write_bytes(
        X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    path.chmod(0o600)
    with pytest.raises(ValueError, match="expected Ed25519"):
        Identity.load(path)


def test_the_id_follows_from_the_public_key_alone():
    one = Identity.from_seed(b"1" * 32)
    assert one.node_id == node_id_of(one.public_key) == Identity.from_seed(b"1" * 32).node_id
    assert one.node_id != Identity.from_seed(b"2" * 32).node_id
    assert len(one.node_id) == NODE_ID_LENGTH
    assert is_node_id(one.node_id)


@pytest.mark.parametrize("text", ["", "a" * 31, "A" * 32, "1" * 32, "a" * 33, "é" * 32])
def test_malformed_node_ids_are_recognized(text):
    assert not is_node_id(text)


def test_a_signature_holds_for_its_key_and_message_only():
    one, two = Identity.from_seed(b"1" * 32), Identity.from_seed(b"2" * 32)
    signature = one.sign(b"message")
    assert verify(one.public_key, signature, b"message")
    assert not verify(one.public_key, signature, b"messagE")
    assert not verify(two.public_key, signature, b"message")
    assert not verify(one.public_key, signature[:-1], b"message")
    assert not verify(b"short", signature, b"message")


@pytest.mark.parametrize("message", [b"", b"m", bytes(64), bytes(range(256)) * 300])
def test_signatures_are_those_of_rfc_8032(message):
    identity = Identity.from_seed(b"1" * 32)
    signature = identity.sign(message)
    assert signature == identity.private_key.sign(message)
    assert verify(identity.public_key, signature, message)


def test_signature_and_message_cannot_be_cut_elsewhere():
    identity = Identity.from_seed(b"1" * 32)
    signature = identity.sign(b"message")
    assert not verify(identity.public_key, signature + b"mes", b"sage")
    assert not verify(identity.public_key, signature[:-1], signature[-1:] + b"message")
    assert not verify(identity.public_key, b"", signature + b"message")


def test_keys_of_small_order_sign_nothing():
    neutral = bytes([1]) + bytes(31)  # everything would be signed by R = neutral, S = 0
    assert not verify(neutral, neutral + bytes(32), b"message")


def test_the_private_key_is_not_in_the_repr():
    assert (
        repr(Identity.from_seed(b"1" * 32)) == f"Identity({Identity.from_seed(b'1' * 32).node_id})"
    )
