"""Defines the transformer, its action heads and the specification that a checkpoint carries."""
