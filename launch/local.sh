#!/usr/bin/env bash
# launch/local.sh N CONFIG WORKDIR [flags]: trains with N processes on this machine (bash 5.1 or newer).
# One process (N = 1) uses all devices. Of several, each uses one GPU.
# Ctrl-C and SIGTERM save and stop all processes, with status 75; the same command goes on. Where one fails, all end.
set -uo pipefail
PORT=${PORT:-8476} # CHANGE, if another run uses it

cd "$(dirname "$0")/.."
pids=()
for ((i = 0; i < $1; i++)); do
    (($1 == 1)) || export CUDA_VISIBLE_DEVICES=$i
    python -m rrsr_jax.main --config="$2" --workdir="$3" "${@:4}" \
        --distributed --coordinator="127.0.0.1:$PORT" --processes="$1" --process="$i" &
    pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2> /dev/null' INT TERM

status=0
while ((${#pids[@]})); do
    wait -n -p ended "${pids[@]}"
    code=$?
    [ -n "${ended:-}" ] || continue # a signal ended the wait, not a process
    left=()
    for pid in "${pids[@]}"; do ((pid == ended)) || left+=("$pid"); done
    pids=("${left[@]}")
    ((status && status != 75)) || status=$code
    if ((code && code != 75)); then
        sleep 10 # in which the others end by themselves, unless they had not met yet
        kill -KILL "${pids[@]}" 2> /dev/null
    fi
done
exit "$status"
