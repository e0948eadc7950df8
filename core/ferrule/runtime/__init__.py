"""Tensors on a device: cache, attention, sampling, and the runner that computes plans."""
