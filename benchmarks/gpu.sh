#!/usr/bin/env bash
# How far training and decoding are from a GPU's limits at LST-7B's size, and from plain transformers (random weights, bf16);
# meant to take less than ten minutes.
#
#     bash benchmarks/gpu.sh                          # writes benchmarks/results/gpu-*.json
#     OUT=/tmp/gpu BATCH=32 STAGE2_BATCH=2 bash benchmarks/gpu.sh
#     DEVICE=cpu DTYPE=float32 LLM_SIZES="--layers 1 ..." SIZES="--frontend-layers 1 ..." bash benchmarks/gpu.sh
#
# Each part is a process of its own, with all of the memory; one that fails, because it does not fit for instance, is
# said at the end and does not stop the others.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
OUT=${OUT:-benchmarks/results} DEVICE=${DEVICE:-cuda} DTYPE=${DTYPE:-bfloat16}
BATCH=${BATCH:-16} STAGE2_BATCH=${STAGE2_BATCH:-4} REPEATS=${REPEATS:-3} UTTERANCES=${UTTERANCES:-256}
LLM="--layers 32 --width 4096 --heads 32 --kv-heads 32 --intermediate 11008 --vocabulary 32000"
read -r -a sizes <<<"${SIZES:-}"
read -r -a llm <<<"${LLM_SIZES:-$LLM}"
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
mkdir -p "$OUT"
common=(--device "$DEVICE" --dtype "$DTYPE")
failed=()

part() { # NAME COMMAND...: run one part, with a line before it
    echo "== $1"
    "$PYTHON" "${@:2}" "${common[@]}" "${llm[@]}" --json "$OUT/gpu-$1.json" || failed+=("$1")
}

part stage1 benchmarks/gpu.py stage1 --repeats "$REPEATS" --batch "$BATCH" ${sizes[@]+"${sizes[@]}"}
part stage2 benchmarks/gpu.py stage2 --repeats "$REPEATS" --batch "$STAGE2_BATCH" ${sizes[@]+"${sizes[@]}"}
part limits benchmarks/gpu.py decoding --repeats "$REPEATS" ${sizes[@]+"${sizes[@]}"}
part decoding benchmarks/decoding.py --repeats "$REPEATS"
part training benchmarks/training.py --arch lst_7b --train-modules adapter --utterances "$UTTERANCES" \
    --features 1024 --channels 1024
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
