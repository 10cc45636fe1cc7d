"""Finding peers: strategies behind one interface (`p2p.discovery.strategy`), all running side by side."""
