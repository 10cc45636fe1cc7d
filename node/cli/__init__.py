"""Command line. Heavy modules are imported where they are used, to keep the start-up time short."""
