"""A system as bare as Debian installs it, and the README's lines typed in it."""
