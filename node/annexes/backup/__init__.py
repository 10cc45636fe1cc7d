"""Commands that copy a node's data directory into a file, and back."""
