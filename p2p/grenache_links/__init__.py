"""Links between nodes carried over Grenache RPC instead of direct TCP."""
