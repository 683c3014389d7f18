#!/usr/bin/env bash
# Trains a sweep as an array job of Slurm: every task takes an equal part of the grid, and all of
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
first=$SLURM_ARRAY_TASK_MIN last=$SLURM_ARRAY_TASK_MAX step=${SLURM_ARRAY_TASK_STEP:-1}
count=$SLURM_ARRAY_TASK_COUNT
# In a list such as 3,5 the tasks cannot be told which of the parts are theirs.
if [ $(((last - first) / step)) -ge "$count" ]; then
  echo "sweep_slurm.sh: --array is no plain range; submit one such as 0-7:" \
    "what is finished is not trained again" >&2
  exit 2
fi
index=$(((SLURM_ARRAY_TASK_ID - first) / step))
exec python -u -m experiments.sweep --shard="$index/$count" "$@"
