#!/usr/bin/env bash
# Step 4: translate the test splits with the trained model, print some translations and the scores.
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 bash examples/mustc/generate.sh
#   BEAM=1 LENPEN=0.6 CHECKPOINT=checkpoint_best.pt FORCE=1 ... bash examples/mustc/generate.sh
#
# Hypotheses: WORK/hypotheses/SYSTEM/SPLIT/generate-SPLIT.txt; scores: WORK/scores/SYSTEM.SPLIT.json.
# Settings: BEAM, LENPEN, ..., SPLITS, ONE_STAGE, STAGE2_MODULES (see settings.sh). Needs stage2.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"

find_device
dir=$(model_directory)
need_step "$dir" stage2.sh >/dev/null
seconds=$(seconds_of "$dir")
log=$dir/train.log
if [[ $ONE_STAGE == 1 ]]; then
    system=lst-one-stage name="LST one-stage"
else
    system=lst-two-stage name="LST two-stage"
    seconds=$((seconds + $(seconds_of "$WORK/stage1"))) log=$WORK/stage1/train.log:$log
fi
system+=$(variant)
if [[ -n $(variant) ]]; then name+=" ($STAGE2_MODULES)"; fi
translate_and_score "$system" "$name" "$dir" "$DATA" \
    --task lst_st --config-yaml config.yaml --max-tokens "$GEN_BATCH_TOKENS" "${PRECISION_ARGS[@]}" \
    -- "train_seconds=$seconds" "trained_parameters=$(trained_parameters "$dir")" "log=$log" "saw=speech, translations"
