#!/usr/bin/env bash
# The cascade: SPEECH_ENCODER's own CTC head writes a transcript, and the LLM that text.sh trained translates it.
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 SPEECH_ENCODER=/models/wav2vec2 LLM=/models/llama bash examples/mustc/cascade.sh
#
# Settings: see settings.sh. Needs text.sh. Everything goes to WORK/cascade.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"

need_backbones
data=$(need_step "$DATA" prep.sh)
model=$WORK/text/model
need_step "$model" text.sh >/dev/null
find_device
transcripts=$WORK/cascade/transcripts text=$WORK/cascade/data

mapfile -t splits < <(if [[ -n $TUNE_BEAMS$TUNE_LENPENS ]]; then echo dev; fi && test_splits)
recognise='for split in "${@:3}"; do
    echo "== recognising $split"
    lst transcribe --manifest "$0/$split.tsv" --speech-encoder "$1" --out "$2/$split.tsv"
done'
run_step "$transcripts" --made-from splits="${splits[*]}" speech-encoder="$SPEECH_ENCODER" data="$data" -- \
    bash -ec "$recognise" "$DATA" "$SPEECH_ENCODER" "$transcripts" "${splits[@]}"
spoken=$(need_step "$transcripts" cascade.sh)
run_step "$text" --made-from transcripts="$spoken" -- \
    lst prep text --not-compared --manifests "$DATA" --splits "${splits[@]}" --transcripts "$transcripts" --out "$text"

translate_and_score cascade "Cascade: CTC transcript, then LLM" "$model" "$text" \
    --task lst_st --config-yaml config.yaml --max-tokens "$GEN_BATCH_TOKENS" "${PRECISION_ARGS[@]}" \
    -- "train_seconds=$(seconds_of "$model")" "trained_parameters=$(trained_parameters "$model")" \
    "log=$model/train.log" "saw=transcripts, translations"
