#!/usr/bin/env bash
# Runs every test that needs a CUDA device, in the environment whose python is first on the PATH.
# FERRULE_TEST_MODELS: folder made by tests/data/smollm2.py; FERRULE_TEST_FULL_SIZE: a big checkpoint.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec python3 -m pytest tests/gpu -m gpu -p no:cacheprovider -W default --durations=5 "$@"
