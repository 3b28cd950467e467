#!/usr/bin/env bash
# A step of the recipe on several GPUs of one node, or of several nodes, with torchrun.
#
#   LLM=... SPEECH_ENCODER=... MUSTC_ROOT=... EXTRA_TRAIN_ARGS="--ddp-backend fully_sharded" \
#       bash examples/mustc/torchrun.sh stage2.sh                                  # one node, all its GPUs
#   NODES=2 NODE_RANK=0 MASTER_ADDR=node1 ... bash examples/mustc/torchrun.sh stage2.sh    # on node1
#   NODES=2 NODE_RANK=1 MASTER_ADDR=node1 ... bash examples/mustc/torchrun.sh stage2.sh    # on the other, same settings
#
# GPUS (GPUs of a node; default: all), MASTER_PORT (default 29500). The nodes meet at MASTER_ADDR:MASTER_PORT. They need the
# same data and models; WORK has to be a folder that all of them see. Prepare the data (prep.sh) on one node before.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$HERE/../../scripts/env.sh"
case "${1:-}" in "" | -h | --help) show_help "$0" && exit ;; esac
[[ -f $HERE/$1 ]] || die "$1: no such step; choose stage1.sh, stage2.sh or another of $HERE"
use_environment
GPUS=${GPUS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
NODES=${NODES:-1}
NODE_RANK=${NODE_RANK:-0}
for name in GPUS NODES NODE_RANK; do
    [[ ${!name} =~ ^(0|[1-9][0-9]*)$ ]] || die "$name=${!name}: give a whole number"
done
if [[ $NODES -gt 1 && -z ${MASTER_ADDR:-} ]]; then die "MASTER_ADDR is not set: give the name of the node with NODE_RANK=0"; fi
export WORLD_SIZE=$((NODES * GPUS))
# Only the first node keeps the log and marks the step as done.
export FOLLOWER=$((NODE_RANK > 0 ? 1 : 0))
export LAUNCHER="torchrun --nnodes $NODES --node-rank $NODE_RANK --nproc-per-node $GPUS \
    --master-addr ${MASTER_ADDR:-localhost} --master-port ${MASTER_PORT:-29500} -m lst_fairseq.distributed.launch"
exec bash "$HERE/$1"
