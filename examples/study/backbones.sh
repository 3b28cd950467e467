#!/usr/bin/env bash
# Train the backbones that the studies compare, beside those of examples/mini/backbones: a Whisper-like speech encoder, an
# earlier and so worse w2v-BERT, Llamas of half and of one and a half times the width, and a GPT-2.
#
#   bash examples/study/backbones.sh                    # on data/mini, into data/study-backbones
#   bash examples/study/backbones.sh data/digits        # on data/digits, into data/study-backbones-digits
#   NICE=15 bash examples/study/backbones.sh            # with a low priority
#
# About two hours on two CPU cores. What is finished is not done again, and a speech encoder goes on where it stopped.
# Trained with the sizes, data and seeds below by the Python on the PATH (PYTHON=... chooses another).
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0" && exit ;; esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
corpus=${1:-$root/data/mini}
out=$root/data/study-backbones
text=()
if [[ $(basename "$corpus") != mini ]]; then
    out+=-$(basename "$corpus")
    text=(--text "$corpus"/en-*/data/train/txt)
fi
[[ -d $corpus/en-de/data/train ]] || { echo "error: $corpus has no en-de: run bash scripts/quickstart.sh, or give a corpus in MuST-C's layout" >&2 && exit 1; }

mini=$root/examples/mini
run() { nice -n "${NICE:-0}" "${PYTHON:-python}" "$@"; }
speech=(--corpus "$corpus/en-de" --batch-seconds 40 --noise 1)
run "$mini/train_whisper.py" "${speech[@]}" --out "$out/whisper" --updates 3000
run "$mini/train_frontend.py" "${speech[@]}" --out "$out/frontend-early" --hidden 160 --ffn 384 --updates 700
run "$mini/train_llm.py" "${text[@]}" --out "$out/llama-half" --hidden 128 --updates 1200
run "$mini/train_llm.py" "${text[@]}" --out "$out/llama-large" --hidden 384 --heads 6 --updates 1200
run "$mini/train_llm.py" "${text[@]}" --out "$out/gpt2" --family gpt2 --updates 1200
