#!/usr/bin/env bash
# The from-scratch baseline: fairseq's own s2t_transformer on filterbank features of the very same segments, for no less
# training time than the two stages took, translated and scored in the same way.
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 bash examples/mustc/baseline.sh                             # after run.sh
#   BASELINE_UPDATES=100000 MUSTC_ROOT=/corpora/MUSTC_v1.0 bash examples/mustc/baseline.sh     # after prep.sh
#
# It is trained on the segments alone: no transcripts, no other text, no pretrained encoder. It is decoded one sentence at
# a time, since its convolutions run over padding and its scores would otherwise depend on the batch.
# Settings: BASELINE_..., BEAM, LENPEN, SEED, ... (see settings.sh). Needs prep.sh, and stage1.sh and stage2.sh for their
# time unless BASELINE_UPDATES or BASELINE_SECONDS is set. Everything goes to WORK/baseline.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"

data_hash=$(need_step "$DATA" prep.sh)
find_device
features=$WORK/baseline/data model=$WORK/baseline/model

mapfile -t splits < <(printf 'train\ndev\n' && test_splits)
prepare=(--manifests "$DATA" --splits "${splits[@]}" --vocab-size "$BASELINE_VOCAB" --time-mask "$BASELINE_TIME_MASK")
if step_needed "$features" "${prepare[@]}" --data "$data_hash"; then
    echo "== baseline: filterbank features"
    python "$LST_ROOT/scripts/prep_fbank.py" "${prepare[@]}" --out "$features"
    step_done "$features"
fi
features_hash=$(need_step "$features" baseline.sh)

if [[ -n $BASELINE_UPDATES ]]; then
    limit=(--max-update "$BASELINE_UPDATES") updates=$BASELINE_UPDATES budget="$BASELINE_UPDATES updates"
else
    seconds=$BASELINE_SECONDS
    if [[ -z $seconds ]]; then
        need_step "$WORK/stage1" stage1.sh >/dev/null
        need_step "$WORK/stage2" stage2.sh >/dev/null
        seconds=$(($(seconds_of "$WORK/stage1") + $(seconds_of "$WORK/stage2")))
    fi
    [[ $seconds =~ ^[1-9][0-9]*$ ]] || die "BASELINE_SECONDS=$seconds: give a whole number of seconds, or BASELINE_UPDATES"
    limit=(--stop-time-hours "$(python -c "print($seconds / 3600)")") updates="?" budget="$seconds s"
fi

read_words more "$BASELINE_ARGS"
# As fairseq's recipe for MuST-C has them.
arguments=(
    --task speech_to_text --config-yaml config.yaml --train-subset train --valid-subset dev
    --arch "$BASELINE_ARCH" --criterion label_smoothed_cross_entropy --label-smoothing "$BASELINE_LABEL_SMOOTHING"
    --report-accuracy --optimizer adam --lr "$BASELINE_LR" --lr-scheduler inverse_sqrt --warmup-updates "$BASELINE_WARMUP"
    --clip-norm 10.0 --max-tokens "$BASELINE_MAX_TOKENS" --update-freq "$BASELINE_UPDATE_FREQ" --seed "$SEED"
    --required-batch-size-multiple 1 "${PRECISION_ARGS[@]}" "${limit[@]}" "${more[@]}"
)
if step_needed "$model" "${arguments[@]}" --data "$features_hash"; then
    echo "== baseline, $BASELINE_ARCH from scratch: $budget on $(device_words)"
    host_arguments "$LST_ROOT/lst_fairseq"
    run_training baseline "$model" "$updates" "$features" "${arguments[@]}" "${HOST_ARGS[@]}"
    step_done "$model"
fi

# Longer than any test segment, so that fairseq leaves none out.
translate_and_score baseline "$BASELINE_ARCH from scratch" "$model" "$features" "$LST_ROOT/lst_fairseq" \
    --task speech_to_text --config-yaml config.yaml --batch-size 1 \
    --max-source-positions 100000 --max-target-positions 100000 \
    -- "train_seconds=$(seconds_of "$model")" "trained_parameters=$(trained_parameters "$model")"
