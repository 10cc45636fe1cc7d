"""Instruments, commands, events and records: the vocabulary that every other folder of the exchange shares."""
