"""The weight formats: how bytes lie, how they are allocated, written, dequantised, multiplied."""
