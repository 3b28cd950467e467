#!/usr/bin/env bash
# Step 3, downstream fine-tuning: train adapter and LLM (STAGE2_MODULES) into WORK/stage2, from where stage 1 ended.
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 SPEECH_ENCODER=/models/wav2vec2 LLM=/models/llama bash examples/mustc/stage2.sh
#   ONE_STAGE=1 ... bash examples/mustc/stage2.sh    # without stage 1, for as many updates as both, into WORK/one-stage
#
# Settings: STAGE2_..., ONE_STAGE..., and those of training in general (see settings.sh). Needs prep.sh, and stage1.sh
# unless ONE_STAGE=1.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"

need_backbones
data=$(need_step "$DATA" prep.sh)
find_device    # device, DEVICE_ARGS and PRECISION_ARGS, by this machine and PRECISION
host_arguments # HOST_ARGS, by NUM_WORKERS, SAVE_INTERVAL, AVERAGE and LOG_INTERVAL; they change nothing in the outcome
read_words extra "$EXTRA_TRAIN_ARGS" EXTRA_TRAIN_ARGS
updates=${STAGE2_UPDATES:-$(updates_of "$STAGE2_EPOCHS" train)}
if [[ $ONE_STAGE == 1 ]]; then
    name="one stage" start=none from=()
    updates=${ONE_STAGE_UPDATES:-$((updates + ${STAGE1_UPDATES:-$(updates_of "$STAGE1_EPOCHS" train)}))}
else
    name="stage 2"
    start=$(need_step "$WORK/stage1" stage1.sh)
    from=(--finetune-from-model "$WORK/stage1/checkpoint_last.pt") # once there is a checkpoint here, fairseq goes on from that
fi
dir=$(model_directory)
fill_in_updates "$updates" # warmup and UPDATE_FREQ, by WARMUP_RATIO, GLOBAL_BATCH, BATCH and WORLD_SIZE

run_step "$dir" --name="$name" --title="$name, $STAGE2_MODULES: $updates updates on $device" \
    --made-from data="$data" start="$start" -- \
    fairseq-train "$DATA" \
    --task lst_st --config-yaml config.yaml --train-subset train --valid-subset dev --target-lang "$TGT_LANG" \
    --arch "$ARCH" --speech-encoder "$SPEECH_ENCODER" --llm "$LLM" --train-modules "$STAGE2_MODULES" \
    --criterion lst_cross_entropy --label-smoothing "$LABEL_SMOOTHING" \
    --optimizer adam --adam-betas "$ADAM_BETAS" --weight-decay 0 --clip-norm "$CLIP_NORM" \
    --lr "$STAGE2_LR" --lr-scheduler cosine --warmup-updates "$warmup" --max-update "$updates" \
    --max-tokens "$MAX_TOKENS" --update-freq "$UPDATE_FREQ" --seed "$SEED" "${PRECISION_ARGS[@]}" \
    ${BATCH:+--batch-size "$BATCH"} ${ADAPTER:+--adapter "$ADAPTER"} ${PROMPT:+--prompt "$PROMPT"} \
    ${CACHE_FEATURES:+--cache-features "$CACHE_FEATURES"} "${extra[@]}" \
    --not-compared --save-dir "$dir" "${from[@]}" "${HOST_ARGS[@]}"
