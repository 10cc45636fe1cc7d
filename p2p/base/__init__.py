"""Pieces that every other folder of the network uses: errors, limits, identity, addresses, timers."""
