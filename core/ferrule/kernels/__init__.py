"""Triton kernels over plain tensors, each with its torch reference in the tests.

Only code that runs on a CUDA device imports them: triton need not be installed elsewhere.
"""
