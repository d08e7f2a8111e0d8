#!/usr/bin/env bash
# launch/pod.sh CONFIG WORKDIR [flags]: run on every host of a TPU pod, or as every task of a SLURM job; WORKDIR is a shared folder.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python -m rrsr_jax.main --config="$1" --workdir="$2" --distributed "${@:3}"
