#!/usr/bin/env bash
# Step 2, modality adjustment: train the adapter and the speech markers into WORK/stage1; frontend and LLM stay as they are.
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 SPEECH_ENCODER=/models/wav2vec2 LLM=/models/llama bash examples/mustc/stage1.sh
#   STAGE1_TASK=both ... bash examples/mustc/stage1.sh      # on transcription and translation
#
# Settings: STAGE1_..., and those of training in general (see settings.sh). Needs prep.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"

need_backbones
data=$(need_step "$DATA" prep.sh)
find_device    # device, DEVICE_ARGS and PRECISION_ARGS, by this machine and PRECISION
host_arguments # HOST_ARGS, by NUM_WORKERS, SAVE_INTERVAL, AVERAGE and LOG_INTERVAL; they change nothing in the outcome
read_words extra "$EXTRA_TRAIN_ARGS" EXTRA_TRAIN_ARGS
stage1_subsets # train and dev, by STAGE1_TASK
updates=${STAGE1_UPDATES:-$(updates_of "$STAGE1_EPOCHS" "$train")}
fill_in_updates "$updates" # warmup and UPDATE_FREQ, by WARMUP_RATIO, GLOBAL_BATCH, BATCH and WORLD_SIZE

run_step "$WORK/stage1" --name="stage 1" --title="stage 1, $STAGE1_MODULES: $updates updates on $device" \
    --made-from data="$data" -- \
    fairseq-train "$DATA" \
    --task lst_st --config-yaml config.yaml --train-subset "$train" --valid-subset "$dev" --target-lang "$TGT_LANG" \
    --arch "$ARCH" --speech-encoder "$SPEECH_ENCODER" --llm "$LLM" --train-modules "$STAGE1_MODULES" \
    --criterion lst_cross_entropy --label-smoothing "$LABEL_SMOOTHING" \
    --optimizer adam --adam-betas "$ADAM_BETAS" --weight-decay 0 --clip-norm "$CLIP_NORM" \
    --lr "$STAGE1_LR" --lr-scheduler cosine --warmup-updates "$warmup" --max-update "$updates" \
    --max-tokens "$MAX_TOKENS" --update-freq "$UPDATE_FREQ" --seed "$SEED" "${PRECISION_ARGS[@]}" \
    ${BATCH:+--batch-size "$BATCH"} ${ADAPTER:+--adapter "$ADAPTER"} ${PROMPT:+--prompt "$PROMPT"} \
    ${CACHE_FEATURES:+--cache-features "$CACHE_FEATURES"} "${extra[@]}" \
    --not-compared --save-dir "$WORK/stage1" "${HOST_ARGS[@]}"
