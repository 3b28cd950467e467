#!/usr/bin/env bash
#SBATCH --job-name=lst
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
# The recipe, or a step of it, on Slurm: one process a GPU, on as many nodes as the job has.
#
#   sbatch --nodes 4 --export ALL,LLM=...,SPEECH_ENCODER=...,MUSTC_ROOT=... examples/mustc/slurm.sh stage2.sh
#
# The processes meet through a file if RENDEZVOUS names a folder that all nodes see, else at the first node's address. A job
# that is requeued goes on from its last checkpoint. Further flags: EXTRA_TRAIN_ARGS, by default --ddp-backend fully_sharded.
set -euo pipefail
HERE=${LST_ROOT:-${SLURM_SUBMIT_DIR:-$PWD}}/examples/mustc
source "$HERE/../../scripts/env.sh"
case "${1:-}" in -h | --help) show_help "$0" && exit ;; esac
STEP=${1:-run.sh}
[[ -f $HERE/$STEP ]] || die "$HERE/$STEP: no such step; submit from the checkout, or set LST_ROOT to it"
[[ ${SLURM_JOB_ID:-} =~ ^[1-9][0-9]*$ ]] || die "not in a Slurm job: submit this script with sbatch, or use torchrun.sh"
use_environment
if [[ -z ${RENDEZVOUS:-} ]]; then
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 40000))
    export MASTER_ADDR MASTER_PORT
else
    mkdir -p "$RENDEZVOUS"
    export RENDEZVOUS
fi
export WORLD_SIZE=$SLURM_NTASKS
# Starting on a cold file system takes some nodes a while.
export EXTRA_TRAIN_ARGS=${EXTRA_TRAIN_ARGS-"--ddp-backend fully_sharded --startup-timeout 600"}
# Since Slurm 22.05 a step does not inherit the job's --cpus-per-task: its processes would share one core with their readers.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
export LAUNCHER="srun --kill-on-bad-exit=1 python -m lst_fairseq.distributed.launch"
exec bash "$HERE/$STEP"
