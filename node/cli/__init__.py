"""The command line. Its modules import what is heavy only where it is used: start-up time is felt."""
