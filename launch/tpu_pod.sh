#!/usr/bin/env bash
# launch/tpu_pod.sh CONFIG WORKDIR [flags]: trains on all workers of a Cloud TPU pod. WORKDIR is a folder that all workers see.
# Each worker has the project in FOLDER, with jax[tpu] in its environment .venv. The same command goes on.
set -euo pipefail
TPU=${TPU:-rrsr}                # CHANGE: the name of the TPU VM,
ZONE=${ZONE:-us-central1-a}     # CHANGE: its zone,
FOLDER=${FOLDER:-rrsr_jax}      # CHANGE: the project's folder on the workers

printf -v command '%q ' .venv/bin/python -m rrsr_jax.main --config="$1" --workdir="$2" "${@:3}" --distributed
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="cd $(printf %q "$FOLDER") && exec $command"
