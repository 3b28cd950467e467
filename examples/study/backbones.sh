#!/usr/bin/env bash
# Train the backbones that the studies compare with those of examples/mini/backbones: for mini.yaml a Whisper-like speech
# encoder, an earlier and so worse w2v-BERT, and a Llama of half the width; for digits.yaml a speech encoder and a Llama that
# know its domain.
#
#   bash examples/study/backbones.sh                    # on data/mini, into data/study-backbones
#   bash examples/study/backbones.sh data/digits        # on data/digits, into data/study-backbones-digits
#   NICE=15 bash examples/study/backbones.sh            # with a low priority
#
# Some 2,300 CPU seconds on data/mini, 900 on data/digits. What is finished is not done again, and a speech encoder goes on
# where it stopped.
# Trained with the sizes, data and seeds below by the Python on the PATH (PYTHON=... chooses another).
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0" && exit ;; esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
corpus=${1:-$root/data/mini}
[[ -d $corpus/en-de/data/train ]] || { echo "error: $corpus has no en-de: run bash scripts/quickstart.sh, or give a corpus in MuST-C's layout" >&2 && exit 1; }

mini=$root/examples/mini
out=$root/data/study-backbones
run() { nice -n "${NICE:-0}" "${PYTHON:-python}" "$@"; }
speech=(--corpus "$corpus/en-de" --batch-seconds 40 --noise 1)
if [[ $(basename "$corpus") == mini ]]; then
    run "$mini/train_whisper.py" "${speech[@]}" --out "$out/whisper" --updates 1500
    run "$mini/train_frontend.py" "${speech[@]}" --out "$out/frontend-first" --hidden 160 --ffn 384 --updates 450
    run "$mini/train_frontend.py" "${speech[@]}" --out "$out/frontend-early" --init "$out/frontend-first" --updates 450 --seed 2
    run "$mini/train_llm.py" --out "$out/llama-half" --hidden 128 --updates 800
else
    out+=-$(basename "$corpus")
    run "$mini/train_frontend.py" "${speech[@]}" --out "$out/frontend" --init "$mini/backbones/frontend" --warp 0.25 --lr 1.5e-3 --updates 500
    run "$mini/train_llm.py" --text "$corpus"/en-{de,fr,es}/data/train/txt --out "$out/llama" --updates 300
fi
