"""The peer protocol on one link: frames, messages, TLS, handshake, heartbeats, connections.

`direct_links` (DirectConnectionService) accepts and dials; `connection` implements the interface in `link` on
`frame_transport`; `framing`, `messages`, `handshake`, `liveness` and `tls` are its parts without sockets.
"""
