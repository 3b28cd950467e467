# What the scripts of the recipe share. They source this file and call `begin "$@"`.
# shellcheck shell=bash

RECIPE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../scripts/env.sh
source "$RECIPE/../../scripts/env.sh"

# --- settings ---------------------------------------------------------------------------------------------------------

begin() { # help, settings and environment of a script; "$@" are its arguments
    case "${1:-}" in
        "") ;;
        -h | --help) show_help "$0" && exit ;;
        *) die "unknown argument '$1': settings come from the environment or a SETTINGS file (see --help)" ;;
    esac
    local name words
    local -A given=() # settings from the environment: these win over the file, which wins over the defaults
    for name in $(settings_names); do
        if [[ -v $name ]]; then given[$name]=${!name}; fi
    done
    TGT_LANG=${TGT_LANG-de} # a settings file may be written in terms of it
    if [[ -n ${SETTINGS:-} ]]; then
        [[ -f $SETTINGS ]] || die "SETTINGS=$SETTINGS: no such file"
        # shellcheck disable=SC1090
        source "$(realpath -- "$SETTINGS")" # a bare name would be looked for on PATH first
        for name in "${!given[@]}"; do printf -v "$name" %s "${given[$name]}"; done
    fi
    # shellcheck source=settings.sh
    source "$RECIPE/settings.sh"
    # A relative path is relative to where the script was called.
    for name in MUSTC_ROOT MANIFESTS WORK CACHE_FEATURES; do
        if [[ -n ${!name} && ${!name} != /* ]]; then printf -v "$name" %s "$PWD/${!name}"; fi
    done
    for name in SPEECH_ENCODER LLM; do # what does not exist here may be the id of a model in the Hugging Face cache
        if [[ -n ${!name} && ${!name} != /* && -e ${!name} ]]; then printf -v "$name" %s "$PWD/${!name}"; fi
    done
    need_choice PRECISION "$PRECISION" "" fp32 fp16 bf16
    need_choice ONE_STAGE "$ONE_STAGE" 0 1
    need_choice STAGE1_TASK "$STAGE1_TASK" st asr both
    need_choice FORCE "$FORCE" 0 1
    for name in STAGE1_UPDATES STAGE2_UPDATES ONE_STAGE_UPDATES TEXT_UPDATES UPDATE_FREQ WORLD_SIZE BATCH \
        BASELINE_UPDATES BASELINE_SAVE_INTERVAL WAV2VEC_MAX_TOKENS; do
        [[ ${!name} =~ ^([1-9][0-9]*)?$ ]] || die "$name=${!name}: give a whole number above 0, or leave it empty"
    done
    for name in STAGE1_EPOCHS STAGE2_EPOCHS GLOBAL_BATCH MAX_TOKENS LOG_INTERVAL SAVE_INTERVAL \
        AVERAGE BASELINE_AVERAGE BASELINE_MAX_TOKENS BASELINE_UPDATE_FREQ BEAM MAX_LEN_B GEN_BATCH_TOKENS; do
        [[ ${!name} =~ ^[1-9][0-9]*$ ]] || die "$name=${!name}: give a whole number above 0"
    done
    for name in BASELINE_PRETRAIN_SHARE BASELINE_TUNE_SHARE; do
        [[ ${!name} =~ ^[1-9][0-9]?$ ]] || die "$name=${!name}: give a whole percentage from 1 to 99"
    done
    [[ $BASELINE_SECONDS =~ ^([1-9][0-9]*)?$ ]] ||
        die "BASELINE_SECONDS=$BASELINE_SECONDS: give a whole number of seconds, or leave it empty"
    need_choice FOLLOWER "$FOLLOWER" 0 1
    for name in SEED NUM_WORKERS TRIPLES BASELINE_VOCAB BASELINE_ASR_VOCAB BASELINE_WARMUP BASELINE_TIME_MASK; do
        [[ ${!name} =~ ^(0|[1-9][0-9]*)$ ]] || die "$name=${!name}: give a whole number from 0 on"
    done
    for name in STAGE1_LR STAGE2_LR LORA_LR BASELINE_LR WARMUP_RATIO CLIP_NORM LABEL_SMOOTHING BASELINE_LABEL_SMOOTHING LENPEN; do
        [[ ${!name} =~ ^-?[0-9]*[.]?[0-9]+([eE][-+]?[0-9]+)?$ ]] || die "$name=${!name}: give a number"
    done
    [[ $ADAM_BETAS =~ ^\([0-9.]+,\ *[0-9.]+\)$ ]] || die "ADAM_BETAS=$ADAM_BETAS: give two numbers, such as (0.9, 0.98)"
    need_numbers TUNE_BEAMS '[1-9][0-9]*'
    need_numbers TUNE_LENPENS '-?[0-9]+([.][0-9]+)?'
    need_numbers BASELINE_LRS '[0-9]+([.][0-9]+)?(e-?[0-9]+)?'
    DATA=$WORK/data
    use_environment
    read_words words "$LAUNCHER" LAUNCHER
    USER_DIR=$(lst user-dir)
}

settings_names() { sed -n 's/^\([A-Z0-9_]*\)=.*/\1/p' "$RECIPE/settings.sh"; }

need_choice() { # NAME VALUE CHOICES...
    local choice choices
    for choice in "${@:3}"; do [[ $2 == "$choice" ]] && return; done
    choices=$(for choice in "${@:3}"; do printf '%s, ' "${choice:-(empty)}"; done)
    die "$1=$2: choose one of ${choices%, }"
}

need_numbers() { # NAME PATTERN: each word of the setting NAME matches
    local words word
    read -ra words <<<"${!1}"
    for word in "${words[@]}"; do
        [[ $word =~ ^$2$ ]] || die "$1=${!1}: '$word' is no such number; separate numbers by spaces, or leave it empty"
    done
}

need_directory() { # NAME REMEDY: the setting NAME must be a directory
    [[ -n ${!1} ]] || die "$1 is not set: $2"
    [[ -d ${!1} ]] || die "$1=${!1}: no such directory; $2"
}

need_backbones() {
    need_model SPEECH_ENCODER "a directory that save_pretrained wrote for a speech encoder, its id in the Hugging Face cache, or a fairseq .pt file"
    need_model LLM "a directory that save_pretrained wrote for a causal LLM, or its id in the Hugging Face cache"
}

need_model() { # NAME WHAT: the setting NAME must be a path that exists, or look like a model's id
    [[ -n ${!1} ]] || die "$1 is not set: give $2"
    [[ -e ${!1} || ${!1} =~ ^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$ ]] || die "$1=${!1}: no such directory or file; give $2"
}

read_words() { # ARRAY TEXT [NAME]: split text, the setting NAME's, as a shell would, quotes respected, nothing expanded
    local blank=${2//[[:space:]]/} open='(^|[^\])(\\\\)*\\$'
    if [[ -n $blank ]]; then
        xargs printf '' <<<"$2" >/dev/null 2>&1 && [[ ! $2 =~ $open ]] ||
            die "${3:-$1}=$2: a quote is not closed on its line, or a backslash has nothing behind it; close it, or put a" \
                "backslash before a sign that stands for itself"
    fi
    mapfile -t "$1" < <(if [[ -n $blank ]]; then xargs printf '%s\n' <<<"$2"; fi)
}

test_splits() { # the test splits, one a line
    if [[ -n $SPLITS ]]; then
        tr -s ' ' '\n' <<<"$SPLITS"
    else
        echo tst-COMMON
        if [[ -d $MUSTC_ROOT/en-$TGT_LANG/data/tst-HE || -e $DATA/tst-HE.tsv ]]; then echo tst-HE; fi
    fi
}

# Set WORLD_SIZE and PRECISION for what this machine has, and device, the same in words; DEVICE_ARGS and PRECISION_ARGS say it
# to fairseq.
find_device() {
    local found
    found=$(python -c 'import torch
gpus = torch.cuda.device_count()
print(gpus, "bf16" if gpus and torch.cuda.is_bf16_supported() else "fp16" if gpus else "fp32")') ||
        die "torch does not work in this environment: run bash scripts/setup.sh"
    local gpus=${found% *}
    DEVICE_ARGS=()
    if [[ $gpus == 0 ]]; then DEVICE_ARGS+=(--cpu); fi
    WORLD_SIZE=${WORLD_SIZE:-$((gpus > 0 ? gpus : 1))}
    PRECISION=${PRECISION:-${found#* }}
    if [[ $PRECISION != fp32 && $gpus == 0 ]]; then
        die "PRECISION=$PRECISION needs a GPU and none is visible here: choose fp32"
    fi
    PRECISION_ARGS=()
    if [[ $PRECISION != fp32 ]]; then PRECISION_ARGS+=("--$PRECISION"); fi
    if [[ $gpus == 0 ]]; then device="the CPU, $PRECISION"; else device="$WORLD_SIZE GPU(s), $PRECISION"; fi
}

# --- steps ------------------------------------------------------------------------------------------------------------

# Run a command that fills DIRECTORY, unless it has done so before; lst step --help has the flags and tells the rest.
# Nobody else makes DIRECTORY until this script, and all that it started, have ended, however they end.
declare -A HELD=()
run_step() { # DIRECTORY [FLAG...] -- COMMAND...
    local flags=(--launcher "$LAUNCHER") lock
    if [[ $FORCE == 1 ]]; then flags+=(--force); fi
    if [[ $FOLLOWER == 1 ]]; then
        flags+=(--follower)
    elif { mkdir -p "$1" && : >>"$1/.step.lock"; } 2>/dev/null; then
        if [[ -z ${HELD[$1]:-} ]]; then exec {lock}<>"$1/.step.lock" && HELD[$1]=$lock; fi
        flags+=(--lock "${HELD[$1]}")
    fi
    lst step "$1" "${flags[@]}" "${@:2}"
}

need_step() { # DIRECTORY SCRIPT: print the hash of a finished step, which what builds on it has among its settings
    cat "$1/.done" 2>/dev/null || die "$1 is not there or not finished: run bash examples/mustc/$2 first"
}

# --- training ---------------------------------------------------------------------------------------------------------

updates_of() { # EPOCHS SUBSETS: updates in so many epochs over the training manifests, with commas between them
    local segments=0 subset
    for subset in ${2//,/ }; do segments=$((segments + $(wc -l <"$DATA/$subset.tsv") - 1)); done
    echo $(((segments + GLOBAL_BATCH - 1) / GLOBAL_BATCH * $1))
}

stage1_subsets() { # set train and dev, the manifests that stage 1 learns from and is looked at on; makes those of asr
    local split
    train=train dev=dev
    if [[ $STAGE1_TASK == st ]]; then return; fi
    for split in train dev; do
        if [[ ! -e $DATA/${split}_asr.tsv ]]; then
            lst prep asr --manifest "$DATA/$split.tsv" --out "$DATA/${split}_asr.tsv"
        fi
    done
    if [[ $STAGE1_TASK == asr ]]; then train=train_asr dev=dev_asr; else train=train,train_asr; fi
}

fill_in_updates() { # UPDATES: set warmup, the updates in which the learning rate rises, and UPDATE_FREQ, for GLOBAL_BATCH
    warmup=$(python -c 'import sys; print(max(1, round(int(sys.argv[1]) * float(sys.argv[2]))))' "$1" "$WARMUP_RATIO")
    if [[ -z $UPDATE_FREQ && -z $BATCH ]]; then
        die "with an empty BATCH the sentences of a batch vary: set UPDATE_FREQ (1, say)"
    fi
    UPDATE_FREQ=${UPDATE_FREQ:-$(((GLOBAL_BATCH + BATCH * WORLD_SIZE - 1) / (BATCH * WORLD_SIZE)))}
}

model_directory() { # where the model that ONE_STAGE and STAGE2_MODULES choose is trained
    local name=stage2
    if [[ $ONE_STAGE == 1 ]]; then name=one-stage; fi
    echo "$WORK/$name$(variant)"
}

variant() { # nothing for the paper's modules in stage 2; other ones have directories and scores of their own
    if [[ $STAGE2_MODULES != adapter,llm ]]; then echo "-${STAGE2_MODULES//,/+}"; fi
}

host_arguments() { # set HOST_ARGS, where fairseq-train runs, how often it saves and what it says: nothing in the outcome
    # Saving and validating goes by updates alone: the epochs of a small corpus are shorter than a look at its dev set.
    HOST_ARGS=(--user-dir "$USER_DIR" "${DEVICE_ARGS[@]}" --num-workers "$NUM_WORKERS" --no-epoch-checkpoints
        --save-interval 1000000 --validate-interval 1000000
        --save-interval-updates "$SAVE_INTERVAL" --keep-interval-updates "$AVERAGE"
        --log-format json --log-interval "$LOG_INTERVAL")
}

seconds_of() { grep -xE '[0-9]+' "$1/seconds" 2>/dev/null || echo 0; } # DIRECTORY: wall seconds its training has taken so far

trained_parameters() { # DIRECTORY: as fairseq-train counted them
    sed -n 's/.*num\. shared model params: .*(num\. trained: \([0-9,]*\)).*/\1/p' "$1/train.log" | tail -n 1 | tr -d ,
}

# --- translation and scoring ------------------------------------------------------------------------------------------

# Translate and score each test split with the model in DIRECTORY. Hypotheses: WORK/hypotheses/SYSTEM/SPLIT, scores:
# WORK/scores/SYSTEM.SPLIT.json. ARGUMENTs are fairseq-generate's, EXTRAs more entries for the scores.
translate_and_score() { # SYSTEM NAME DIRECTORY DATA ARGUMENT... -- EXTRA...
    local system=$1 name=$2 dir=$3 data=$4 split arguments=() extra=() triples=$TRIPLES
    shift 4
    while [[ $1 != -- ]]; do arguments+=("$1") && shift; done
    extra=("${@:2}")
    local more=()
    read_words more "$EXTRA_GENERATE_ARGS" EXTRA_GENERATE_ARGS
    arguments+=(--max-len-b "$MAX_LEN_B" "${more[@]}")
    if [[ $AVERAGE != 1 ]]; then
        local CHECKPOINT=checkpoint_average$AVERAGE.pt
        [[ -e $dir/$CHECKPOINT ]] ||
            lst average "$dir" "${average_flag:---last}" "$AVERAGE" --out "$dir/$CHECKPOINT"
    fi
    if [[ -n $TUNE_BEAMS$TUNE_LENPENS ]]; then
        local BEAM=$BEAM LENPEN=$LENPEN
        tune_search "$system" "$dir" "$data" "${arguments[@]}"
        extra+=("tuned=dev, beam of ${TUNE_BEAMS:-$BEAM}, lenpen of ${TUNE_LENPENS:-$LENPEN}")
    fi
    arguments+=(--beam "$BEAM" --lenpen "$LENPEN")

    local splits=()
    mapfile -t splits < <(test_splits)
    for split in "${splits[@]}"; do
        if [[ $split != "${splits[0]}" ]]; then triples=0; fi
        translate "$split" "$system" "$dir" "$data" "${arguments[@]}"
        echo "== $split"
        score "$split" "$name" "$WORK/hypotheses/$system/$split" "$WORK/scores/$system.$split.json" --triples "$triples" \
            --extra "corpus=$(corpus_name)" "split=$split" "beam=$BEAM" "lenpen=$LENPEN" "${extra[@]}"
    done
}

corpus_name() {
    if [[ -n $MANIFESTS ]]; then basename "$MANIFESTS"; else echo "$(basename "${MUSTC_ROOT:-$WORK}")-en-$TGT_LANG"; fi
}

score() { # SPLIT NAME HYPOTHESES JSON ARGUMENT...
    mkdir -p "$(dirname "$4")"
    lst score --manifest "$DATA/$1.tsv" --name "$2" --hypotheses "$3/generate-$1.txt" \
        --log "$3/generate.log" --json "$4" --target-lang "$TGT_LANG" ${TOKENIZE:+--tokenize "$TOKENIZE"} "${@:5}"
}

# Set BEAM and LENPEN to the pair of TUNE_BEAMS and TUNE_LENPENS with the highest BLEU on dev; of equal ones the first.
tune_search() { # SYSTEM DIRECTORY DATA ARGUMENT...
    local tried=$WORK/tuning/$1${TOKENIZE:+-$TOKENIZE} beam beams lenpen lenpens name files=()
    read -ra beams <<<"${TUNE_BEAMS:-$BEAM}"
    read -ra lenpens <<<"${TUNE_LENPENS:-$LENPEN}"
    for beam in "${beams[@]}"; do
        for lenpen in "${lenpens[@]}"; do
            name=beam$beam-lenpen$lenpen
            translate dev "$1/$name" "${@:2}" --beam "$beam" --lenpen "$lenpen"
            if [[ ! -e $tried/$name.json || ! -e $WORK/hypotheses/$1/$name/dev/.scored ]]; then
                score dev "$1, beam $beam, length penalty $lenpen" "$WORK/hypotheses/$1/$name/dev" "$tried/$name.json" \
                    --triples 0 --extra "split=dev" "beam=$beam" "lenpen=$lenpen"
                touch "$WORK/hypotheses/$1/$name/dev/.scored"
            fi
            files+=("$tried/$name.json")
        done
    done
    read -r BEAM LENPEN < <(python -c 'import json, sys
best = max((json.load(open(path)) for path in sys.argv[1:]), key=lambda score: score["bleu"])
print(best["beam"], best["lenpen"])' "${files[@]}")
    echo "== $1: beam $BEAM and length penalty $LENPEN, by BLEU on dev"
}

translate() { # SPLIT SYSTEM MODEL-DIRECTORY DATA ARGUMENT...
    local model=$3/$CHECKPOINT
    [[ -e $model ]] || die "$model: no such checkpoint; CHECKPOINT is one of $(cd "$3" && echo checkpoint*.pt)"
    run_step "$WORK/hypotheses/$2/$1" --made-from model="$CHECKPOINT $(cat "$3/.done")" -- \
        fairseq-generate "$4" "${@:5}" \
        --not-compared --gen-subset "$1" --path "$model" --user-dir "$USER_DIR" "${DEVICE_ARGS[@]}" \
        --num-workers "$NUM_WORKERS" --required-batch-size-multiple 1 --scoring sacrebleu --log-format none
}
