#!/usr/bin/env bash
# launch/train.sh CONFIG WORKDIR [flags]: one machine, all its devices. WORKDIR is relative to the project.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python -m rrsr_jax.main --config="$1" --workdir="$2" "${@:3}"
