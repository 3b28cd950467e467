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
data_hash=$(need_step "$DATA" prep.sh)
find_device
text=$WORK/text/data model=$WORK/text/model

mapfile -t splits < <(printf 'train\ndev\n' && test_splits)
prepare=(--manifests "$DATA" --splits "${splits[@]}")
if step_needed "$text" "${prepare[@]}" --data "$data_hash"; then
    lst prep text "${prepare[@]}" --out "$text"
    step_done "$text"
fi

updates=${TEXT_UPDATES:-${STAGE2_UPDATES:-$(updates_of "$STAGE2_EPOCHS")}}
lst_arguments "$updates" "$STAGE2_LR" "$TEXT_MODULES"
if step_needed "$model" "${LST_ARGS[@]}" --data "$(need_step "$text" text.sh)"; then
    echo "== text, $TEXT_MODULES: $updates updates on $(device_words)"
    host_arguments
    run_training text "$model" "$updates" "$text" "${LST_ARGS[@]}" "${HOST_ARGS[@]}"
    step_done "$model"
fi

translate_and_score text "LLM on reference transcripts" "$model" "$text" \
    --task lst_st --config-yaml config.yaml --max-tokens "$GEN_BATCH_TOKENS" "${PRECISION_ARGS[@]}" \
    -- "train_seconds=$(seconds_of "$model")" "trained_parameters=$(trained_parameters "$model")" \
    "log=$model/train.log" "saw=transcripts, translations"
