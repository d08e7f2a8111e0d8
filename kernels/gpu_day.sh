#!/usr/bin/env bash
# All that is to be done once on a machine with a CUDA GPU:  kernels/gpu_day.sh OUT [WHEELS]
#
# Installs the wheels in the folder WHEELS, if it is given, without network, into OUT/site. Then runs the tests marked `gpu`, the
# self-check of the kernels, their benchmark beside torchvision, the block sizes, and the model beside PyTorch. Each has a time
# limit (LIMIT seconds, 300), and a failure stops none of the others. OUT then has logs, gpu.json with all figures, and gpu.md
# with all tables. The exit status is that of the tests and the self-check. ONLY="kernels blocks" runs what begins so, and keeps
# what an earlier call left in OUT.
set -uo pipefail
out=$(realpath -m "${1:?a folder for the results expected}")
mkdir -p "$out"
if [ -n "${2:-}" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$out/site" "$2"/*.whl || exit 1
fi
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$out/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
failed=""

# part NAME COMMAND...: runs it, with its output in OUT/NAME.log; says how it ended
part() {
    name=$1
    shift
    [ "$name" = report ] || [ -z "${ONLY:-}" ] || [[ " $ONLY" == *" ${name%%_*}"* ]] || return 0
    since=$SECONDS
    if timeout "${LIMIT:-300}" "$@" > "$out/$name.log" 2>&1; then
        echo "$name: done in $((SECONDS - since)) s"
    else
        echo "$name: FAILED with status $? after $((SECONDS - since)) s, see $out/$name.log"
        failed+=" $name"
        tail -n 5 "$out/$name.log"
    fi
}

part tests env JAX_PLATFORMS=cuda python3 -m pytest -q -m gpu -p no:cacheprovider tests
part selfcheck python3 -c 'import sys
from kernels import default_implementation
print(default_implementation())
sys.exit(default_implementation() != "triton")'
for dtype in float32 bfloat16; do
    part "kernels_$dtype" python3 -m kernels.bench --shapes=train --dtype="$dtype" --json="$out/kernels_$dtype.json"
    part "step_$dtype" python3 -m rrsr_jax.experiments.bench --part=step --batch=9 --dtype="$dtype" --json="$out/step_$dtype.json"
    part "inference_$dtype" python3 -m rrsr_jax.experiments.bench --part=inference --part=match --dtype="$dtype" \
        --json="$out/inference_$dtype.json"
done
part blocks python3 -m kernels.tune --json="$out/blocks.json"
part report python3 - "$out" "$failed" << 'END'
import json, pathlib, sys
from kernels.tune import table

out, failed = pathlib.Path(sys.argv[1]), sys.argv[2].split()
parts = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json")) if path.stem != "gpu"}
(out / "gpu.json").write_text(json.dumps({"failed": failed, "parts": parts}, indent=1))
texts = [f"failed: {', '.join(failed) or 'nothing'}"]
for name, content in parts.items():
    about = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in content["about"].items())
    texts.append(f"## {name}\n\n{about}\n\n{table(content['rows'])}")
(out / "gpu.md").write_text("\n\n".join(texts) + "\n")
END
echo "figures: $out/gpu.json, tables: $out/gpu.md"
case "$failed" in *tests* | *selfcheck* | *report*) exit 1 ;; esac
