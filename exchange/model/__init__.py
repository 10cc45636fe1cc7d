"""Vocabulary that every other folder of the exchange shares.

instruments  markets with their steps, limits and fees; decimals to ticks and lots and back
commands     new orders, amendments, selections
events       feed events and signed batches
records      journal records
codec        records as bytes
peer_values  types of the values that other nodes write
ports        protocols that the exchange needs from outside, outgoing messages
decimals     texts of scaled integers
"""
