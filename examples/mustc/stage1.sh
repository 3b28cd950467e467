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
data_hash=$(need_step "$DATA" prep.sh)
find_device
subsets=$(stage1_subsets) train=${subsets% *} dev=${subsets##* }
updates=${STAGE1_UPDATES:-$(updates_of "$STAGE1_EPOCHS" "$train")}
lst_arguments "$updates" "$STAGE1_LR" "$STAGE1_MODULES" "${train// /,}" "$dev"
if step_needed "$WORK/stage1" "${LST_ARGS[@]}" --data "$data_hash"; then
    echo "== stage 1, $STAGE1_MODULES: $updates updates on $(device_words)"
    host_arguments
    run_training "stage 1" "$WORK/stage1" "$updates" "$DATA" "${LST_ARGS[@]}" "${HOST_ARGS[@]}"
    step_done "$WORK/stage1"
fi
