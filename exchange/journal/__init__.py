"""Durable state: write-ahead log, snapshots, recovery, archive and market history."""
