#!/usr/bin/env bash
# Train the mini backbones again: the commands, data and seeds that made examples/mini/backbones.
#
#   bash examples/mini/backbones.sh [WORK]     # WORK: for the corpus and the models, default data/mini-backbones
#
# About an hour on two CPU cores, from the Python on the PATH (PYTHON=... chooses another). Run it again to go on after an
# interruption. The results stay in WORK; copy WORK/frontend and WORK/llm to examples/mini/backbones to ship them.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0" && exit ;; esac

mini=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$mini/../../data/mini-backbones}
python=${PYTHON:-python}

# More voices and other sentences than the quickstart's corpus; none of its test voices, none of its test sentences.
"$python" "$mini/make_corpus.py" "$work/corpus" --langs de --train 20000 --voices 1000 --dev 200 --test 200 --seed 101

# In two steps, so that there is something to work with after the first.
"$python" "$mini/train_frontend.py" --corpus "$work/corpus/en-de" --out "$work/frontend-1" \
    --hidden 160 --ffn 384 --updates 1300 --batch-seconds 40 --noise 1 --seed 1
"$python" "$mini/train_frontend.py" --corpus "$work/corpus/en-de" --init "$work/frontend-1" --out "$work/frontend" \
    --updates 1500 --batch-seconds 40 --lr 1.5e-3 --warmup 0.03 --noise 1 --seed 2

"$python" "$mini/train_llm.py" --out "$work/llm" --updates 1200 --seed 1
