"""Traces for OpenTelemetry: requests, orders, takes, decisions, fills and service calls.

Loaded with `TRACING=true` alone, because it needs the extra `[tracing]`.
"""
