"""Links between two nodes: framing, messages, TLS, handshake, liveness."""
