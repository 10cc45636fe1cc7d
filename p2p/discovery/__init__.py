"""Discovery of peers by strategies that run side by side (`p2p.discovery.strategy.PeerDiscovery`).

Persisted peers (`remembered`), bootstrap peers, mDNS, a Grape, peer exchange. A new strategy is a class like those in
these modules, added to `Overlay._strategies`.
"""
