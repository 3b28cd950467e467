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
data_hash=$(need_step "$DATA" prep.sh)
find_device
updates=${STAGE2_UPDATES:-$(updates_of "$STAGE2_EPOCHS")}
if [[ $ONE_STAGE == 1 ]]; then
    name="one stage"
    updates=${ONE_STAGE_UPDATES:-$((updates + ${STAGE1_UPDATES:-$(updates_of "$STAGE1_EPOCHS")}))}
    start_hash=none
else
    name="stage 2"
    start_hash=$(need_step "$WORK/stage1" stage1.sh)
fi
dir=$(model_directory)
lst_arguments "$updates" "$STAGE2_LR" "$STAGE2_MODULES"
if step_needed "$dir" "${LST_ARGS[@]}" --data "$data_hash" --start "$start_hash"; then
    # A run that goes on starts from its own checkpoint_last.pt, so stage 1 is given to a fresh one only.
    start=()
    if [[ $ONE_STAGE == 0 && ! -e $dir/checkpoint_last.pt ]]; then
        start=(--finetune-from-model "$WORK/stage1/checkpoint_last.pt")
    fi
    echo "== $name, $STAGE2_MODULES: $updates updates on $(device_words)"
    host_arguments
    run_training "$name" "$dir" "$updates" "$DATA" "${LST_ARGS[@]}" "${HOST_ARGS[@]}" "${start[@]}"
    step_done "$dir"
fi
