#!/usr/bin/env bash
# Trains a sweep as an array job of Slurm: every task takes every n-th run of the grid, and all of
# them fill one directory, which has to be on a file system that they share.
#
#   sbatch --array=0-7 scripts/sweep_slurm.sh --seeds=100 --workdir=runs/large
#
# from the project's directory, with the environment activated. The flags are those of
# experiments.sweep. What was finished when a task was stopped is not trained again: to go on after
# a time limit, give the command once more. With GPUs add --gpus-per-task=1 to sbatch's options.
#
#SBATCH --job-name=initjax-sweep
#SBATCH --array=0-3
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
#SBATCH --signal=B:TERM@60
# The last line has the batch under way finished and kept before the time is up.
set -euo pipefail
first=$SLURM_ARRAY_TASK_MIN count=$SLURM_ARRAY_TASK_COUNT
exec python -u -m experiments.sweep --shard="$((SLURM_ARRAY_TASK_ID - first))/$count" "$@"
