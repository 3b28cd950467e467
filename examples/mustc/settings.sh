# Every setting of the recipe with its default. Each can be given in the environment,
#     STAGE1_LR=1e-3 bash examples/mustc/run.sh
# or in a file that sets some of them, one NAME=value a line, with $LST_ROOT for the checkout and $TGT_LANG for the language:
#     SETTINGS=examples/mini/settings.env bash examples/mustc/run.sh
# What stands in the environment wins over the file, and the file over the defaults below, those of LST-7B on MuST-C.
# "empty" below means: worked out by the scripts.
# shellcheck shell=bash disable=SC2034

# --- what to train on -------------------------------------------------------------------------------------------------
# The corpus: the directory that holds en-de, en-fr, ... (MuST-C's own layout).
MUSTC_ROOT=${MUSTC_ROOT-}
# Or manifests of any other corpus: a folder with train.tsv, dev.tsv and the splits in SPLITS, as lst prep covost and its like
# write them, and the corpus's config.yaml, if it has one.
MANIFESTS=${MANIFESTS-}
# Target language, as in the corpus's directory names.
TGT_LANG=${TGT_LANG-de}
# Everything that is made goes here: manifests, checkpoints, hypotheses, scores, logs.
WORK=${WORK-$LST_RESULTS/mustc-$TGT_LANG}
# Further arguments of lst prep mustc, such as --clean-stage-directions; quote as in a shell.
PREP_ARGS=${PREP_ARGS-}
# Test splits, separated by spaces. Empty: tst-COMMON, and tst-HE where the corpus has it.
SPLITS=${SPLITS-}

# --- the system -------------------------------------------------------------------------------------------------------
# Speech encoder and LLM: directories as save_pretrained writes them, ids of models in the local Hugging Face cache, or,
# for the speech encoder, a fairseq .pt file.
SPEECH_ENCODER=${SPEECH_ENCODER-}
LLM=${LLM-}
# fairseq architecture of the model `lst`.
ARCH=${ARCH-lst_7b}
# Prompt with {speech} where the speech goes. Empty: the architecture's own.
PROMPT=${PROMPT-}
# 1: one stage only, adapter and LLM trained together from the start (for comparison).
ONE_STAGE=${ONE_STAGE-0}

# Adapter between the two: conv, stack, ctc or qformer. Empty: the architecture's own (conv).
ADAPTER=${ADAPTER-}
# What stage 1 learns from: st (translation), asr (transcription; the manifests' src_text), or both. PROMPT has to tell the two
# apart, by {instruction} or {tgt_lang}, as LST's own does.
STAGE1_TASK=${STAGE1_TASK-st}
# What each stage trains, of: frontend, adapter, lora, llm. `adapter,lora` in stage 2 is the paper's low-rank variant.
STAGE1_MODULES=${STAGE1_MODULES-adapter}
STAGE2_MODULES=${STAGE2_MODULES-adapter,llm}

# --- training ---------------------------------------------------------------------------------------------------------
# Peak learning rate and epochs of each stage.
STAGE1_LR=${STAGE1_LR-2e-3}
STAGE1_EPOCHS=${STAGE1_EPOCHS-6}
STAGE2_LR=${STAGE2_LR-2e-5}
STAGE2_EPOCHS=${STAGE2_EPOCHS-1}
# Updates of each stage. Empty: epochs x training segments / GLOBAL_BATCH.
STAGE1_UPDATES=${STAGE1_UPDATES-}
STAGE2_UPDATES=${STAGE2_UPDATES-}
# Updates with ONE_STAGE=1. Empty: those of both stages together, so that it trains no less.
ONE_STAGE_UPDATES=${ONE_STAGE_UPDATES-}
# Sentences in an update, over all GPUs.
GLOBAL_BATCH=${GLOBAL_BATCH-128}
# Sentences a GPU takes at once, at most. Empty: as many as MAX_TOKENS allows.
BATCH=${BATCH-8}
# LLM positions a GPU takes at once, padding included: speech embeddings, prompt and target. The default never binds before
# BATCH does: a segment of 30 s is 375 speech embeddings.
MAX_TOKENS=${MAX_TOKENS-5000}
# Batches that a GPU adds up before it updates. Empty: so that an update has GLOBAL_BATCH sentences.
UPDATE_FREQ=${UPDATE_FREQ-}
# Processes that train together. Empty: one a visible GPU, or one on the CPU. (Several machines: give the total, and
# fairseq's --distributed-... flags in EXTRA_TRAIN_ARGS.)
WORLD_SIZE=${WORLD_SIZE-}
# What starts training; torchrun.sh and slurm.sh set both. With FOLLOWER=1 another node keeps the log.
LAUNCHER=${LAUNCHER:-fairseq-train}
FOLLOWER=${FOLLOWER-0}
# Part of the updates in which the learning rate rises; afterwards it falls along a cosine.
WARMUP_RATIO=${WARMUP_RATIO-0.03}
# AdamW's betas; there is no weight decay.
ADAM_BETAS=${ADAM_BETAS-(0.9, 0.98)}
# Gradient norm that updates are cut down to; 0: never.
CLIP_NORM=${CLIP_NORM-1.0}
LABEL_SMOOTHING=${LABEL_SMOOTHING-0.0}
# fp16, bf16 or fp32. Empty: bf16 on GPUs that have it, else fp16; fp32 on the CPU.
PRECISION=${PRECISION-}
SEED=${SEED-1}
# Directory to keep the frozen speech encoder's features in (fp16), so that a segment is encoded once and not in every
# epoch; 0.37 GB an hour of speech at 1,024 dimensions. Empty: encode anew each time.
CACHE_FEATURES=${CACHE_FEATURES-}
# Processes that read audio, for each GPU.
NUM_WORKERS=${NUM_WORKERS-4}
# Updates between two lines of progress, and between two looks at the dev set, each with a checkpoint to go on from after
# an interruption.
LOG_INTERVAL=${LOG_INTERVAL-50}
SAVE_INTERVAL=${SAVE_INTERVAL-500}
# Further arguments of fairseq-train, in both stages; quote as in a shell.
EXTRA_TRAIN_ARGS=${EXTRA_TRAIN_ARGS-}

# --- translation ------------------------------------------------------------------------------------------------------
# Which checkpoint translates: checkpoint_last.pt or checkpoint_best.pt.
CHECKPOINT=${CHECKPOINT-checkpoint_last.pt}
# More than 1: the mean of the last so many checkpoints translates, saved SAVE_INTERVAL updates apart; give it to training too,
# which keeps no more than this.
AVERAGE=${AVERAGE-1}
BEAM=${BEAM-4}
LENPEN=${LENPEN-1.0}
# Beams and length penalties to try on dev, separated by spaces; the pair with the highest BLEU there translates the test
# splits. Empty: BEAM and LENPEN.
TUNE_BEAMS=${TUNE_BEAMS-}
TUNE_LENPENS=${TUNE_LENPENS-}
# Tokens of a translation, at most.
MAX_LEN_B=${MAX_LEN_B-500}
# LLM positions translated at once, without beams.
GEN_BATCH_TOKENS=${GEN_BATCH_TOKENS-4000}
# Tokeniser of BLEU, in the search on dev too, by sacreBLEU's names. Empty: by the target language (zh, ja-mecab, ko-mecab, char
# for other languages without spaces, else 13a).
TOKENIZE=${TOKENIZE-}
# Further arguments of fairseq-generate.
EXTRA_GENERATE_ARGS=${EXTRA_GENERATE_ARGS-}
# Triples of source, hypothesis and reference to print.
TRIPLES=${TRIPLES-10}

# --- the baseline without an LLM (baseline.sh): fairseq's s2t_transformer ---------------------------------------------
# Its name, in WORK and in reports; another one for each baseline that is to be kept.
BASELINE=${BASELINE-baseline}
# Its updates. Empty: as many as fit in BASELINE_SECONDS.
BASELINE_UPDATES=${BASELINE_UPDATES-}
# Its training time. Empty: the two stages' together.
BASELINE_SECONDS=${BASELINE_SECONDS-}
# s2t_transformer_s, s2t_transformer_m, s2t_conformer, ...
BASELINE_ARCH=${BASELINE_ARCH-s2t_transformer_s}
# What it hears: fbank (80 log-mels), or frontend (the output of SPEECH_ENCODER, frozen).
BASELINE_FEATURES=${BASELINE_FEATURES-fbank}
# 1: pretrain its encoder on the transcripts first, as fairseq's recipe does. This takes a part of its updates or time, in
# percent.
BASELINE_PRETRAIN=${BASELINE_PRETRAIN-1}
BASELINE_PRETRAIN_SHARE=${BASELINE_PRETRAIN_SHARE-40}
BASELINE_VOCAB=${BASELINE_VOCAB-8000}
BASELINE_ASR_VOCAB=${BASELINE_ASR_VOCAB-5000}
BASELINE_LR=${BASELINE_LR-2e-3}
# Learning rates and architectures to try first, separated by spaces, each for BASELINE_TUNE_SHARE percent of the updates or
# of the time, in addition to these: the learning rates with BASELINE_ARCH, then the architectures with the best one. The
# lowest loss on dev wins (on its transcripts, with BASELINE_PRETRAIN=1). Empty: BASELINE_LR, BASELINE_ARCH.
BASELINE_LRS=${BASELINE_LRS-}
BASELINE_ARCHS=${BASELINE_ARCHS-}
BASELINE_TUNE_SHARE=${BASELINE_TUNE_SHARE-20}
BASELINE_WARMUP=${BASELINE_WARMUP-10000}
BASELINE_LABEL_SMOOTHING=${BASELINE_LABEL_SMOOTHING-0.1}
# Feature frames (10 ms, of a speech encoder 20 ms) a GPU takes at once, and batches added up before an update.
BASELINE_MAX_TOKENS=${BASELINE_MAX_TOKENS-40000}
BASELINE_UPDATE_FREQ=${BASELINE_UPDATE_FREQ-8}
# Checkpoints averaged for translation, and the updates between them (empty: SAVE_INTERVAL).
BASELINE_AVERAGE=${BASELINE_AVERAGE-10}
BASELINE_SAVE_INTERVAL=${BASELINE_SAVE_INTERVAL-}
# SpecAugment: longest stretch of frames masked.
BASELINE_TIME_MASK=${BASELINE_TIME_MASK-100}
# Further arguments of fairseq-train, such as smaller sizes for a small corpus.
BASELINE_ARGS=${BASELINE_ARGS-}

# --- comparison (compare.sh) ----------------------------------------------------------------------------------------
# Which systems, separated by spaces; all of them by default.
SYSTEMS=${SYSTEMS-two-stage one-stage lora s2t conformer wav2vec text cascade}
# Peak learning rate of the low-rank variant's second stage.
LORA_LR=${LORA_LR-2e-4}
# Further arguments of fairseq-train for the conformer, in place of BASELINE_ARGS.
CONFORMER_ARGS=${CONFORMER_ARGS-}
# Frames that the Transformer on the speech encoder takes at once. Empty: BASELINE_MAX_TOKENS.
WAV2VEC_MAX_TOKENS=${WAV2VEC_MAX_TOKENS-}

# --- text alone (text.sh, cascade.sh) ---------------------------------------------------------------------------------
# Updates and trained modules of the LLM on the corpus's text pairs. Empty: stage 2's updates.
TEXT_UPDATES=${TEXT_UPDATES-}
TEXT_MODULES=${TEXT_MODULES-llm}

# --- starting again ---------------------------------------------------------------------------------------------------
# A finished step is skipped, an interrupted one goes on, and one that was made with other settings is an error, unless
# FORCE=1 makes it again.
FORCE=${FORCE-0}
