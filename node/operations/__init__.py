"""Declarations of all API operations, shared by server, clients and documents."""
