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
data_hash=$(need_step "$DATA" prep.sh)
model=$WORK/text/model
need_step "$model" text.sh >/dev/null
find_device
transcripts=$WORK/cascade/transcripts text=$WORK/cascade/data

mapfile -t splits < <(if [[ -n $TUNE_BEAMS$TUNE_LENPENS ]]; then echo dev; fi && test_splits)
if step_needed "$transcripts" --splits "${splits[@]}" --speech-encoder "$SPEECH_ENCODER" --data "$data_hash"; then
    for split in "${splits[@]}"; do
        echo "== recognising $split"
        lst transcribe --manifest "$DATA/$split.tsv" --speech-encoder "$SPEECH_ENCODER" \
            --out "$transcripts/$split.tsv"
    done
    step_done "$transcripts"
fi
if step_needed "$text" --transcripts "$(need_step "$transcripts" cascade.sh)"; then
    lst prep text --manifests "$DATA" --splits "${splits[@]}" \
        --transcripts "$transcripts" --out "$text"
    step_done "$text"
fi

translate_and_score cascade "Cascade: CTC transcript, then LLM" "$model" "$text" \
    --task lst_st --config-yaml config.yaml --max-tokens "$GEN_BATCH_TOKENS" "${PRECISION_ARGS[@]}" \
    -- "train_seconds=$(seconds_of "$model")" "trained_parameters=$(trained_parameters "$model")" \
    "log=$model/train.log" "saw=transcripts, translations"
