"""Pickles without Python objects: what a file describes, as inert data."""
