"""What a kernel does first when it was launched before the one in front of it had ended."""

# Jitted functions are not Python to a type checker.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def follow():
    """Lets the next kernel start, and waits for the one in front."""
    tl.extra.cuda.gdc_launch_dependents()
    tl.extra.cuda.gdc_wait()
