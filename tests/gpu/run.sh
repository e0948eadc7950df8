#!/usr/bin/env bash
# Runs every test that needs a CUDA device, in the environment whose python is first on the PATH.
# FERRULE_TEST_MODELS: folder made by tests/data/smollm2.py; FERRULE_TEST_FULL_SIZE: a big checkpoint.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -n "${FERRULE_TEST_MODELS:-}" ]; then
    # Kernels are compiled by all cores at once, not one after another by the tests.
    variables=$(python3 -c "
from ferrule.cli.kernel_cache import cache_environment
print(*(f'{name}={value}' for name, value in cache_environment().items()), sep='\n')")
    while IFS= read -r variable; do export "${variable?}"; done <<< "$variables"
    for dtype in bfloat16 float32; do
        python3 -m ferrule warm-cache "$FERRULE_TEST_MODELS/llama" --dtype "$dtype"
    done
fi
exec python3 -m pytest tests/gpu -m gpu -p no:cacheprovider -W default --durations=5 "$@"
