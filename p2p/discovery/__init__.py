"""Finding peers: strategies behind one interface (`p2p.discovery.base`), all running side by side."""
