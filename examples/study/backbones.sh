#!/usr/bin/env bash
# Train the backbones that the studies compare with those of examples/mini/backbones: for mini.yaml a Whisper-like speech
# encoder, two earlier and so worse w2v-BERTs, a narrower and a wider Llama; for digits.yaml speech encoders of both kinds,
# that go on from those of the mini corpus, and two sizes of Llama that know its domain.
#
#   bash examples/study/backbones.sh                    # on data/mini, into data/study-backbones
#   bash examples/study/backbones.sh data/digits        # after that: on data/digits, into data/study-backbones-digits
#   NICE=15 bash examples/study/backbones.sh            # with a low priority
#
# Some 4,400 CPU seconds on data/mini, 1,000 on data/digits. What is finished is not done again, and a speech encoder goes on
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
speech=(--corpus "$corpus/en-de" --batch-seconds 40)
if [[ $(basename "$corpus") == mini ]]; then
    speech+=(--noise 1)
    run "$mini/train_whisper.py" "${speech[@]}" --out "$out/whisper" --updates 1500
    run "$mini/train_frontend.py" "${speech[@]}" --out "$out/frontend-first" --hidden 160 --ffn 384 --updates 450
    run "$mini/train_frontend.py" "${speech[@]}" --out "$out/frontend-early" --init "$out/frontend-first" --updates 450 --seed 2
    run "$mini/train_frontend.py" "${speech[@]}" --out "$out/frontend-mid" --init "$out/frontend-early" --updates 350 --seed 3
    run "$mini/train_llm.py" --out "$out/llama-half" --hidden 128 --updates 800
    run "$mini/train_llm.py" --out "$out/llama-large" --hidden 384 --heads 6 --updates 900 --lr 1.2e-3
else
    first=$out/whisper
    [[ -e $first/config.json ]] || { echo "error: $first is not there: run bash examples/study/backbones.sh before" >&2 && exit 1; }
    out+=-$(basename "$corpus")
    # Recordings have digital silence, which an encoder that hears noise in all of training never meets.
    speech+=(--noise 0.6 --warp 0.25 --lr 1.5e-3)
    run "$mini/train_frontend.py" "${speech[@]}" --out "$out/frontend" --init "$mini/backbones/frontend" --updates 500
    run "$mini/train_whisper.py" "${speech[@]}" --out "$out/whisper" --init "$first" --updates 400
    run "$mini/train_llm.py" --text "$corpus"/en-{de,fr,es}/data/train/txt --out "$out/llama" --updates 300
    run "$mini/train_llm.py" --text "$corpus"/en-{de,fr,es}/data/train/txt --out "$out/llama-half" --hidden 128 --updates 250
fi
