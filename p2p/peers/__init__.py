"""Peer management: dial loop, link table, peer records, and the PeerManager that joins them."""
