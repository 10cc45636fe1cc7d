"""The OpenAPI document from outside: a generated client and schemathesis against real nodes."""
