#!/usr/bin/env bash
# From nothing to a translation score: set up, make the mini corpus (English speech from a synthesiser, with translations),
# train LST's two stages on it, translate its test set, score. At most 15 minutes on two CPU cores once set up; less on a
# GPU. Run it again to go on after an interruption; what is finished is not done again.
#
#   bash scripts/quickstart.sh                  # English to German: results/quickstart
#   TGT_LANG=fr bash scripts/quickstart.sh      # or fr, es: results/quickstart-fr
#   bash scripts/quickstart.sh --compare        # beside it LST in one stage, and fairseq's s2t_transformer from scratch
#   STAGE2_UPDATES=300 WORK=results/short bash scripts/quickstart.sh     # any setting of examples/mustc/settings.sh
#
# It ends with ten translations, the score, and report.json in the same directory.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
compare=0
for argument in "$@"; do
    case "$argument" in
        --compare) compare=1 ;;
        -h | --help) show_help "${BASH_SOURCE[0]}" && exit ;;
        *) die "unknown argument '$argument': --compare is the only one (see --help)" ;;
    esac
done

export TGT_LANG=${TGT_LANG:-de}
case "$TGT_LANG" in
    de) work=$LST_ROOT/results/quickstart ;;
    fr | es) work=$LST_ROOT/results/quickstart-$TGT_LANG ;;
    *) die "TGT_LANG=$TGT_LANG: the mini corpus has de, fr and es" ;;
esac
export WORK=${WORK:-$work} SETTINGS=${SETTINGS:-$LST_ROOT/examples/mini/settings.env}

bash "$LST_ROOT/scripts/setup.sh"
use_environment
started=$SECONDS # the time that is stated does not count installing

recipe=$LST_ROOT/examples/mustc
corpus=$LST_ROOT/data/mini # all three languages; made once and kept, since the synthesiser never speaks quite the same twice
if [[ ! -e $corpus/.done ]]; then
    echo "== corpus: $corpus"
    python "$LST_ROOT/examples/mini/make_corpus.py" "$corpus" --langs de fr es
    touch "$corpus/.done"
fi
bash "$recipe/run.sh"
scores=("$WORK/scores/lst-two-stage.tst-COMMON.json")
if [[ $compare == 1 ]]; then
    # The translations were shown once; of these two systems only the scores matter.
    ONE_STAGE=1 TRIPLES=0 bash "$recipe/run.sh"
    TRIPLES=0 bash "$recipe/baseline.sh"
    scores+=("$WORK/scores/lst-one-stage.tst-COMMON.json" "$WORK/scores/baseline.tst-COMMON.json")
fi

echo
lst report --out "$WORK/report.json" --set "language=$TGT_LANG" corpus=mini split=tst-COMMON \
    -- "${scores[@]}"
printf 'report: %s; %d min %02d s\n' "$WORK/report.json" $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
