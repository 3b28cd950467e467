#!/usr/bin/env bash
# The recipe from a corpus to a score: prep.sh, stage1.sh, stage2.sh, generate.sh. Run it again
# to go on after an interruption.
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 SPEECH_ENCODER=/models/wav2vec2 LLM=/models/llama bash examples/mustc/run.sh
#   SETTINGS=my.env bash examples/mustc/run.sh        # settings from a file
#   ONE_STAGE=1 SETTINGS=my.env bash examples/mustc/run.sh      # the comparison without stage 1, in the same WORK
#
# All settings stand in settings.sh, each with its meaning and default.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"

need_backbones
bash "$RECIPE/prep.sh"
if [[ $ONE_STAGE == 0 ]]; then bash "$RECIPE/stage1.sh"; fi
bash "$RECIPE/stage2.sh"
bash "$RECIPE/generate.sh"
