"""Services offered by nodes: directory, server, balanced caller, health gossip."""
