#!/usr/bin/env bash
# Recorded human speech: train backbones for a corpus of spoken digit strings, then compare all systems on it.
#
#   bash examples/mini/digits.sh CORPUS
#   SYSTEMS="two-stage s2t" TGT_LANG=fr bash examples/mini/digits.sh CORPUS
#
# CORPUS: MuST-C's layout with en-de, en-fr and en-es. Its training texts are spoken by a synthesiser too, into two more splits
# of CORPUS, train_synthetic1 and 2, which only the speech encoder hears. The backbones go to results/digits-backbones (some 35
# minutes on two CPU cores), the comparison to results/digits-LANGUAGE. Run it again to go on after an interruption.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/env.sh"
case "${1:-}" in
    -h | --help) show_help "${BASH_SOURCE[0]}" && exit ;;
    "") die "name the corpus (see --help)" ;;
esac
[[ $# == 1 ]] || die "give one corpus (see --help)"
for language in de fr es; do
    [[ -d $1/en-$language/data/train/txt ]] || die "$1 has no en-$language/data/train/txt: not a corpus in MuST-C's layout"
done
corpus=$(cd "$1" && pwd)
mini=$LST_ROOT/examples/mini backbones=$LST_ROOT/results/digits-backbones
use_environment

for n in 1 2; do
    [[ -d $corpus/en-de/data/train_synthetic$n ]] ||
        python "$mini/make_corpus.py" "$corpus" --text "$corpus/en-de/data/train/txt" \
            --split "train_synthetic$n" --voices 120 --seed "$n" --word-pauses "$((n == 1 ? 5 : 10))e-1"
done
frontend() { # NAME ARGUMENT...
    python "$mini/train_frontend.py" --corpus "$corpus/en-de" --batch-seconds 40 --warp 0.25 \
        --extra-split train_synthetic1 train_synthetic2 --out "$backbones/$1" "${@:2}"
}
frontend frontend-1 --init "$mini/backbones/frontend" --updates 800 --lr 1.5e-3 --noise 1
frontend frontend --init "$backbones/frontend-1" --updates 400 --lr 8e-4 --noise 0.6 --seed 2
python "$mini/train_llm.py" --text "$corpus"/en-{de,fr,es}/data/train/txt --out "$backbones/llm" --updates 400

MUSTC_ROOT=$corpus SETTINGS=${SETTINGS:-$mini/digits.env} bash "$LST_ROOT/examples/mustc/compare.sh"
