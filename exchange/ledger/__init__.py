"""Double-entry ledger, accounts and API keys, and the reconciliation of positions with other nodes.

balances            balances by holder and asset, holds of open orders
market_units        worth of ticks and lots in whole units of the assets
ledger              deposits, holds, trades, fees, credit limits: postings that sum to zero
accounts            accounts, their limits, API keys, nonces
statements          signed statements about the position with another node
statement_checks    validation of another node's documents
reconciliation      search for the trades that differ, comparison of two statements
"""
