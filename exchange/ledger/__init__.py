"""Double-entry ledger, balances, accounts, and statements reconciled between nodes."""
