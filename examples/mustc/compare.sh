#!/usr/bin/env bash
# LST beside everything that it has to be compared with, on the very same segments: trains, translates and scores what is not
# there yet, and writes the table, tests of significance, plots and sentences to WORK/comparison, a folder for each split.
#
#   MUSTC_ROOT=/corpora/MUSTC_v1.0 SPEECH_ENCODER=/models/wav2vec2 LLM=/models/llama bash examples/mustc/compare.sh
#   SYSTEMS="two-stage lora s2t" ... bash examples/mustc/compare.sh
#
# SYSTEMS are two-stage, one-stage, lora (two-stage with low-rank updates of the LLM), s2t (fairseq's s2t_transformer,
# pretrained on the transcripts), conformer (s2t_conformer likewise), wav2vec (an s2t_transformer on the frozen speech
# encoder), text (the LLM on reference transcripts: the upper bound), cascade (the CTC head's transcripts, then that LLM).
# Every system gets at least the training time of LST's two stages or, with the LLM in it, its updates. Beam and length
# penalty are the same for all, or each system's best on dev (TUNE_BEAMS, TUNE_LENPENS); learning rate and architecture of
# s2t are tried on dev with BASELINE_LRS and BASELINE_ARCHS.
# Settings: SYSTEMS, LORA_LR, ... (see settings.sh).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin "$@"
read -ra systems <<<"$SYSTEMS"
for system in "${systems[@]}"; do
    need_choice SYSTEMS "$system" two-stage one-stage lora s2t conformer wav2vec text cascade
done

wanted() { [[ " $SYSTEMS " == *" $1 "* ]]; } # SYSTEM
run() { # SETTING=VALUE... SCRIPT: one step of the recipe with some settings of its own
    env TRIPLES=0 "${@:1:$#-1}" bash "$RECIPE/${!#}.sh"
}
untried=(BASELINE_PRETRAIN=1 BASELINE_LRS= BASELINE_ARCHS=) # the search is for the main baseline
done_systems=() # in the table's order, as WORK/scores names them

run prep
# The two stages first: their time is what the baselines get.
if wanted two-stage || wanted lora || wanted s2t || wanted conformer || wanted wav2vec; then run stage1; fi
if wanted two-stage || wanted s2t || wanted conformer || wanted wav2vec; then run stage2; fi
if wanted two-stage; then
    run generate
    done_systems+=(lst-two-stage)
fi
if wanted one-stage; then
    run ONE_STAGE=1 stage2
    run ONE_STAGE=1 generate
    done_systems+=(lst-one-stage)
fi
if wanted lora; then
    low_rank=(STAGE2_MODULES=adapter,lora STAGE2_LR="$LORA_LR")
    run "${low_rank[@]}" stage2
    run "${low_rank[@]}" generate
    done_systems+=(lst-two-stage-adapter+lora)
fi
if wanted s2t; then
    run BASELINE=s2t BASELINE_PRETRAIN=1 baseline
    done_systems+=(s2t)
fi
if wanted conformer; then
    run BASELINE=conformer BASELINE_ARCH=s2t_conformer BASELINE_ARGS="$CONFORMER_ARGS" "${untried[@]}" baseline
    done_systems+=(conformer)
fi
if wanted wav2vec; then
    run BASELINE=wav2vec BASELINE_FEATURES=frontend BASELINE_MAX_TOKENS="${WAV2VEC_MAX_TOKENS:-$BASELINE_MAX_TOKENS}" \
        "${untried[@]}" baseline
    done_systems+=(wav2vec)
fi
if wanted text || wanted cascade; then run text; fi
if wanted cascade; then
    run cascade
    done_systems+=(cascade)
fi
if wanted text; then done_systems+=(text); fi

mapfile -t splits < <(test_splits)
for split in "${splits[@]}"; do
    scores=("${done_systems[@]/#/$WORK/scores/}")
    scores=("${scores[@]/%/.$split.json}")
    against=()
    if wanted s2t && [[ ${#scores[@]} -gt 1 ]]; then
        name=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["name"])' "$WORK/scores/s2t.$split.json")
        against=(--baseline "$name")
    fi
    lst compare "${scores[@]}" "${against[@]}" --out "$WORK/comparison/$split" \
        --set "title=$(corpus_name), $split" "language=$TGT_LANG" "split=$split"
done
echo "comparison: $(printf "$WORK/comparison/%s/results.html " "${splits[@]}")"
