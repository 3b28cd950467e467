#!/usr/bin/env bash
# A baseline without an LLM: fairseq's own s2t_transformer on the very same segments, for no less training time than the two
# stages took, translated and scored in the same way. As in fairseq's recipe for MuST-C, its encoder is first pretrained on
# the transcripts (BASELINE_PRETRAIN=0: from scratch on translations alone).
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 bash examples/mustc/baseline.sh                             # after run.sh
#   BASELINE_UPDATES=100000 MUSTC_ROOT=/corpora/MUSTC_v1.0 bash examples/mustc/baseline.sh     # after prep.sh
#   BASELINE_LRS="1e-3 2e-3" BASELINE_ARCHS="s2t_transformer_s s2t_transformer_m" ... bash examples/mustc/baseline.sh
#   BASELINE=conformer BASELINE_ARCH=s2t_conformer ... bash examples/mustc/baseline.sh
#   BASELINE=wav2vec-transformer BASELINE_FEATURES=frontend ... bash examples/mustc/baseline.sh
#
# The last one hears what LST hears, the output of SPEECH_ENCODER, and lacks the LLM. A baseline is decoded one sentence at
# a time, since its convolutions run over padding and its scores would otherwise depend on the batch.
# Settings: BASELINE_..., BEAM, LENPEN, SEED, ... (see settings.sh). Needs prep.sh, and stage1.sh and stage2.sh for their
# time unless BASELINE_UPDATES or BASELINE_SECONDS is set. Everything goes to WORK/BASELINE.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"
need_choice BASELINE_FEATURES "$BASELINE_FEATURES" fbank frontend
need_choice BASELINE_PRETRAIN "$BASELINE_PRETRAIN" 0 1
[[ $BASELINE =~ ^[A-Za-z0-9_.-]+$ ]] || die "BASELINE=$BASELINE: give a name of letters, digits, '-', '_' and '.'"

data=$(need_step "$DATA" prep.sh)
find_device
features=$WORK/$BASELINE/data model=$WORK/$BASELINE/model asr=$WORK/$BASELINE/asr

seconds=$BASELINE_SECONDS
if [[ -z $BASELINE_UPDATES && -z $seconds ]]; then
    need_step "$WORK/stage1" stage1.sh >/dev/null
    need_step "$WORK/stage2" stage2.sh >/dev/null
    seconds=$(($(seconds_of "$WORK/stage1") + $(seconds_of "$WORK/stage2")))
fi
[[ -n $BASELINE_UPDATES || $seconds =~ ^[1-9][0-9]*$ ]] ||
    die "BASELINE_SECONDS=$seconds: give a whole number of seconds, or BASELINE_UPDATES"

mapfile -t splits < <(printf 'train\ndev\n' && test_splits)
prepare=(--vocab-size "$BASELINE_VOCAB" --time-mask "$BASELINE_TIME_MASK")
if [[ $BASELINE_FEATURES == frontend ]]; then need_backbones && prepare+=(--speech-encoder "$SPEECH_ENCODER"); fi
if [[ $BASELINE_PRETRAIN == 1 ]]; then prepare+=(--asr-vocab-size "$BASELINE_ASR_VOCAB"); fi
run_step "$features" --title="$BASELINE: features ($BASELINE_FEATURES)" --made-from data="$data" -- \
    lst prep fbank --manifests "$DATA" --splits "${splits[@]}" "${prepare[@]}" \
    --not-compared --out "$features"
data=$(need_step "$features" baseline.sh)

limit_to() { # PERCENT of the updates or of the time: set LIMIT, what fairseq-train stops at, and BUDGET, in words
    [[ $1 =~ ^[0-9]+$ ]] || return # bash would run text in its place
    if [[ -n $BASELINE_UPDATES ]]; then
        LIMIT=(--max-update $((BASELINE_UPDATES * $1 / 100)))
        BUDGET="${LIMIT[1]} updates"
    else
        BUDGET="$((seconds * $1 / 100)) s"
        LIMIT=(--stop-time-hours "$(python -c "print($seconds * $1 / 100 / 3600)")")
    fi
}

# From here on in the settings that the baseline shares with LST.
AVERAGE=$BASELINE_AVERAGE SAVE_INTERVAL=${BASELINE_SAVE_INTERVAL:-$SAVE_INTERVAL}
if [[ -z $BASELINE_UPDATES ]]; then average_flag=--at-most; fi # how many it will be is not known beforehand
host_arguments
read_words more "$BASELINE_ARGS" BASELINE_ARGS
transcripts=(--config-yaml config_asr.yaml --train-subset train_asr --valid-subset dev_asr)
translations=(--config-yaml config.yaml --train-subset train --valid-subset dev)

train() { # NAME DIRECTORY ARCH LR ARGUMENT...: a step of training, as fairseq's recipe for MuST-C has it
    run_step "$2" --name="$1" --title="$1, $3: $BUDGET on $device" --made-from data="$data" -- \
        fairseq-train "$features" --task speech_to_text --arch "$3" \
        --criterion label_smoothed_cross_entropy --label-smoothing "$BASELINE_LABEL_SMOOTHING" --report-accuracy \
        --optimizer adam --lr "$4" --lr-scheduler inverse_sqrt --warmup-updates "$BASELINE_WARMUP" --clip-norm 10.0 \
        --max-tokens "$BASELINE_MAX_TOKENS" --update-freq "$BASELINE_UPDATE_FREQ" --seed "$SEED" \
        --required-batch-size-multiple 1 "${PRECISION_ARGS[@]}" "${LIMIT[@]}" "${more[@]}" "${@:5}" \
        --not-compared --save-dir "$2" "${HOST_ARGS[@]}"
}

# Set ARCH and LR to those of BASELINE_ARCHS and BASELINE_LRS with the lowest loss on dev after a part of the budget.
choose_arch_and_lr() {
    local trials=$WORK/$BASELINE/trials subsets=("${translations[@]}") candidate archs lrs
    ARCH=$BASELINE_ARCH LR=$BASELINE_LR
    if [[ -z $BASELINE_LRS$BASELINE_ARCHS ]]; then return; fi
    if [[ $BASELINE_PRETRAIN == 1 ]]; then subsets=("${transcripts[@]}"); fi
    limit_to "$BASELINE_TUNE_SHARE"
    read -ra lrs <<<"${BASELINE_LRS:-$LR}"
    for candidate in "${lrs[@]}"; do
        train "$BASELINE, trial of $candidate" "$trials/$ARCH-$candidate" "$ARCH" "$candidate" "${subsets[@]}"
    done
    LR=$(best_trial "${lrs[@]/#/$trials/$ARCH-}") LR=${LR##*"$ARCH-"}
    read -ra archs <<<"${BASELINE_ARCHS:-$ARCH}"
    for candidate in "${archs[@]}"; do
        train "$BASELINE, trial of $candidate" "$trials/$candidate-$LR" "$candidate" "$LR" "${subsets[@]}"
    done
    archs=("${archs[@]/%/-$LR}")
    ARCH=$(best_trial "${archs[@]/#/$trials/}") ARCH=${ARCH##*/} ARCH=${ARCH%"-$LR"}
    echo "== $BASELINE: $ARCH at $LR, by the loss on dev"
    tuned=("tuned_training=dev, lr of ${lrs[*]}, arch of ${BASELINE_ARCHS:-$ARCH}; $BUDGET each")
}

best_trial() { # DIRECTORY...: the one whose last loss on dev is lowest
    local dir loss
    for dir in "$@"; do
        # As JSON, or as the text of logs that were written before.
        loss=$(sed -nE 's/.* \| dev(_asr)? \| .*("dev(_asr)?_loss": "|[| ]loss )([-+.0-9e]+)[" ].*/\4/p' "$dir/train.log" |
            tail -n 1)
        [[ -n $loss ]] || die "$dir/train.log has no loss on dev: raise BASELINE_TUNE_SHARE"
        printf '%s\t%s\n' "$loss" "$dir"
    done | sort -g | head -n 1 | cut -f 2
}

tuned=()
choose_arch_and_lr
start=() share=100 spent=0 words="from scratch" log=$model/train.log saw="speech, translations"
if [[ $BASELINE_PRETRAIN == 1 ]]; then
    limit_to "$BASELINE_PRETRAIN_SHARE"
    train "$BASELINE on transcripts" "$asr" "$ARCH" "$LR" "${transcripts[@]}"
    start=(--load-pretrained-encoder-from "$asr/checkpoint_last.pt")
    share=$((100 - BASELINE_PRETRAIN_SHARE)) spent=$(seconds_of "$asr") words="pretrained on transcripts"
    log=$asr/train.log:$log saw="speech, transcripts, translations"
fi
limit_to "$share"
train "$BASELINE" "$model" "$ARCH" "$LR" "${translations[@]}" "${start[@]}"

if [[ $BASELINE_FEATURES == frontend ]]; then words="on frozen speech encoder, $words"; fi
# Longer than any test segment, so that fairseq leaves none out.
translate_and_score "$BASELINE" "$ARCH $words" "$model" "$features" \
    --task speech_to_text --config-yaml config.yaml --batch-size 1 \
    --max-source-positions 100000 --max-target-positions 100000 \
    -- "train_seconds=$((spent + $(seconds_of "$model")))" "trained_parameters=$(trained_parameters "$model")" \
    "log=$log" "saw=$saw" "${tuned[@]}"
