"""Requests and decisions: which sequences run, on which blocks, until when. Imports no torch."""
