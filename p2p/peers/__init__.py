"""Peer management: which peers this node dials, admits, keeps and remembers.

`peer_manager` (PeerManager) joins `dial_loop`, `duplicate_links` (the link in use of two), `link_slots` and
`peer_policy` (rules of admission, applied by `peer_admission`), `peer_records` and `peer_store`.
"""
