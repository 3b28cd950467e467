#!/usr/bin/env bash
# Step 1: manifests of the corpus: WORK/data/{train,dev,tst-COMMON,...}.tsv and config.yaml.
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 TGT_LANG=de bash examples/mustc/prep.sh
#   MANIFESTS=/data/covost-en-de SPLITS=test bash examples/mustc/prep.sh      # of another corpus: see lst prep
#
# Settings: MUSTC_ROOT or MANIFESTS, TGT_LANG, SPLITS, PREP_ARGS, WORK (see settings.sh).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"

mapfile -t splits < <(printf 'train\ndev\n' && test_splits)

from_mustc() {
    need_directory MUSTC_ROOT "set it to the directory that holds en-de, en-fr, ... (scripts/quickstart.sh makes a small corpus), or MANIFESTS to manifests of another corpus"
    local pair=$MUSTC_ROOT/en-$TGT_LANG/data languages split contents more prepare
    if [[ ! -d $pair ]]; then
        languages=$(cd "$MUSTC_ROOT" && for d in en-*/data; do if [[ -d $d ]]; then d=${d%/data}; printf '%s ' "${d#en-}"; fi; done)
        die "TGT_LANG=$TGT_LANG: there is no $pair; MUSTC_ROOT has ${languages:-no language at all}; give one of these"
    fi
    for split in "${splits[@]}"; do
        [[ -d $pair/$split ]] || die "$pair has no split $split; it has $(cd "$pair" && echo *): set SPLITS"
    done

    # The texts and segment lists are what the manifests are made from: when they change, so must the manifests.
    contents=$(for split in "${splits[@]}"; do cat "$pair/$split"/txt/*; done | hash_of)
    read_words more "${PREP_ARGS-}" PREP_ARGS
    prepare=(--data-root "$MUSTC_ROOT" --tgt-lang "$TGT_LANG" --splits "${splits[@]}" "${more[@]}")
    if step_needed "$DATA" "${prepare[@]}" --contents "$contents"; then
        echo "== prep: manifests of ${splits[*]}"
        lst prep mustc "${prepare[@]}" --out "$DATA"
        step_done "$DATA"
    fi
}

from_manifests() { # checked, and copied with their configuration; relative audio paths mean what audio_root in it says
    local split files=() contents root audio_root=()
    for split in "${splits[@]}"; do
        [[ -f $MANIFESTS/$split.tsv ]] ||
            die "MANIFESTS=$MANIFESTS: has no $split.tsv; it has $(cd "$MANIFESTS" && echo *.tsv): set SPLITS to the test splits"
        files+=("$MANIFESTS/$split.tsv")
    done
    if [[ -f $MANIFESTS/config.yaml ]]; then
        files+=("$MANIFESTS/config.yaml")
        root=$(python -c 'import sys
from lst_fairseq.utils.yaml_files import read_yaml
try:
    print((read_yaml(sys.argv[1]) or {}).get("audio_root") or "")
except (ValueError, AttributeError) as error:
    sys.exit(f"error: {error}")' "$MANIFESTS/config.yaml") || die "$MANIFESTS/config.yaml has to hold settings, as YAML"
        audio_root=(--audio-root "$root")
    fi
    contents=$(cat "${files[@]}" | hash_of)
    if step_needed "$DATA" --manifests "$MANIFESTS" --splits "${splits[@]}" --contents "$contents"; then
        echo "== prep: checking ${splits[*]} of $MANIFESTS"
        lst check "${files[@]:0:${#splits[@]}}" "${audio_root[@]}" ||
            die "$MANIFESTS: see above; lst check --show 100 lists more of each kind"
        : >"$DATA/config.yaml"
        cp "${files[@]}" "$DATA"
        step_done "$DATA"
    fi
}

if [[ -n $MANIFESTS ]]; then
    need_directory MANIFESTS "set it to a folder with train.tsv, dev.tsv and test splits"
    from_manifests
else
    from_mustc
fi
