"""Writes a checkpoint anew as a GGUF file in another weight format."""
