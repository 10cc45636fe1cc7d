"""Balances, orders, trades and obligations of several own nodes together."""
