#!/usr/bin/env bash
# Step 1: manifests of the corpus: WORK/data/{train,dev,tst-COMMON,...}.tsv and config.yaml.
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 TGT_LANG=de bash examples/mustc/prep.sh
#
# Settings: MUSTC_ROOT, TGT_LANG, SPLITS, PREP_ARGS, WORK (see settings.sh).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"

need_directory MUSTC_ROOT "set it to the directory that holds en-de, en-fr, ... (scripts/quickstart.sh makes a small corpus)"
pair=$MUSTC_ROOT/en-$TGT_LANG/data
if [[ ! -d $pair ]]; then
    languages=$(cd "$MUSTC_ROOT" && for d in en-*/data; do if [[ -d $d ]]; then d=${d%/data}; printf '%s ' "${d#en-}"; fi; done)
    die "TGT_LANG=$TGT_LANG: there is no $pair; MUSTC_ROOT has ${languages:-no language at all}"
fi
mapfile -t splits < <(printf 'train\ndev\n' && test_splits)
for split in "${splits[@]}"; do
    [[ -d $pair/$split ]] || die "$pair has no split $split; it has $(cd "$pair" && echo *): set SPLITS"
done

# The texts and segment lists are what the manifests are made from: when they change, so must the manifests.
contents=$(for split in "${splits[@]}"; do cat "$pair/$split"/txt/*; done | hash_of)
read_words more "${PREP_ARGS-}"
prepare=(--data-root "$MUSTC_ROOT" --tgt-lang "$TGT_LANG" --splits "${splits[@]}" "${more[@]}")
if step_needed "$DATA" "${prepare[@]}" --contents "$contents"; then
    echo "== prep: manifests of ${splits[*]}"
    python "$LST_ROOT/scripts/prep_mustc.py" "${prepare[@]}" --out "$DATA"
    step_done "$DATA"
fi
