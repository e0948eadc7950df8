"""Kernels for the CPU, compiled on the user's machine where it has a compiler."""
