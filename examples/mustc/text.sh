#!/usr/bin/env bash
# The upper bound: the LLM trained on the corpus's text pairs, translating the reference transcripts of the test splits.
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 SPEECH_ENCODER=/models/wav2vec2 LLM=/models/llama bash examples/mustc/text.sh
#
# The same prompt, with the transcript where the speech would be; STAGE2_LR, and TEXT_UPDATES updates of the LLM (TEXT_MODULES:
# lora instead). cascade.sh translates recognised speech with it. Settings: see settings.sh. Needs prep.sh. Everything goes
# to WORK/text.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"

need_backbones
data=$(need_step "$DATA" prep.sh)
find_device
host_arguments
read_words extra "$EXTRA_TRAIN_ARGS" EXTRA_TRAIN_ARGS
text=$WORK/text/data model=$WORK/text/model

mapfile -t splits < <(printf 'train\ndev\n' && test_splits)
run_step "$text" --made-from data="$data" -- lst prep text --manifests "$DATA" --splits "${splits[@]}" \
    --not-compared --out "$text"

updates=${TEXT_UPDATES:-${STAGE2_UPDATES:-$(updates_of "$STAGE2_EPOCHS" train)}}
fill_in_updates "$updates"
data=$(need_step "$text" text.sh)
run_step "$model" --name=text --title="text, $TEXT_MODULES: $updates updates on $device" --made-from data="$data" -- \
    fairseq-train "$text" \
    --task lst_st --config-yaml config.yaml --train-subset train --valid-subset dev --target-lang "$TGT_LANG" \
    --arch "$ARCH" --speech-encoder "$SPEECH_ENCODER" --llm "$LLM" --train-modules "$TEXT_MODULES" \
    --criterion lst_cross_entropy --label-smoothing "$LABEL_SMOOTHING" \
    --optimizer adam --adam-betas "$ADAM_BETAS" --weight-decay 0 --clip-norm "$CLIP_NORM" \
    --lr "$STAGE2_LR" --lr-scheduler cosine --warmup-updates "$warmup" --max-update "$updates" \
    --max-tokens "$MAX_TOKENS" --update-freq "$UPDATE_FREQ" --seed "$SEED" "${PRECISION_ARGS[@]}" \
    ${BATCH:+--batch-size "$BATCH"} ${ADAPTER:+--adapter "$ADAPTER"} ${PROMPT:+--prompt "$PROMPT"} \
    ${CACHE_FEATURES:+--cache-features "$CACHE_FEATURES"} "${extra[@]}" \
    --not-compared --save-dir "$model" "${HOST_ARGS[@]}"

translate_and_score text "LLM on reference transcripts" "$model" "$text" \
    --task lst_st --config-yaml config.yaml --max-tokens "$GEN_BATCH_TOKENS" "${PRECISION_ARGS[@]}" \
    -- "train_seconds=$(seconds_of "$model")" "trained_parameters=$(trained_parameters "$model")" \
    "log=$model/train.log" "saw=transcripts, translations"
