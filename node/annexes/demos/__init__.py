"""Demos that show flow control at work: what a retry storm does, and what prevents it."""
