"""Holds compilers of accelerators that are not there, one module each, with the same functions.

`missing()` tells what has to be installed, `describe(topology)` returns the devices of a topology,
and `compile_lowered(lowered, topology, fast=...)` returns a program and its memory, or a refusal.
"""
