"""The peer-to-peer network: links, peers, discovery, mesh, calls, services, and Grenache."""
