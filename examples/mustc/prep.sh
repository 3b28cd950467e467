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
    local pair=$MUSTC_ROOT/en-$TGT_LANG/data languages split contents more
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
    run_step "$DATA" --title="prep: manifests of ${splits[*]}" --made-from contents="$contents" -- \
        lst prep mustc --data-root "$MUSTC_ROOT" --tgt-lang "$TGT_LANG" --splits "${splits[@]}" "${more[@]}" \
        --not-compared --out "$DATA"
}

from_manifests() { # checked, and copied with their configuration; relative audio paths mean what audio_root in it says
    local split files=() contents check_and_copy config=$MANIFESTS/config.yaml
    for split in "${splits[@]}"; do
        [[ -f $MANIFESTS/$split.tsv ]] ||
            die "MANIFESTS=$MANIFESTS: has no $split.tsv; it has $(cd "$MANIFESTS" && echo *.tsv): set SPLITS to the test splits"
        files+=("$MANIFESTS/$split.tsv")
    done
    if [[ ! -f $config ]]; then config=/dev/null; fi
    contents=$(cat "${files[@]}" "$config" | hash_of)
    check_and_copy='lst check "${@:3}" ||
        { echo "error: $(dirname "$3"): see above; lst check --show 100 lists more of each kind" >&2 && exit 1; }
    cp "${@:3}" "$1"
    cat "$2" >"$1/config.yaml"'
    run_step "$DATA" --title="prep: checking ${splits[*]} of $MANIFESTS" \
        --made-from manifests="$MANIFESTS" splits="${splits[*]}" contents="$contents" -- \
        bash -ec "$check_and_copy" prep "$DATA" "$config" "${files[@]}"
}

if [[ -n $MANIFESTS ]]; then
    need_directory MANIFESTS "set it to a folder with train.tsv, dev.tsv and test splits"
    from_manifests
else
    from_mustc
fi
