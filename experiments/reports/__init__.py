"""Draws tables, figures and videos from the files of runs alone."""
