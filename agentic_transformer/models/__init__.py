"""Defines the networks and their action heads, and the spec that a checkpoint carries."""
