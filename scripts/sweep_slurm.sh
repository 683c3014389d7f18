#!/usr/bin/env bash
# Trains a sweep as a Slurm array job: each task takes an equal part of the grid, and all of them
# fill one directory, which must be on a shared file system.
#
#   sbatch --array=0-7 scripts/sweep_slurm.sh --seeds=100 --workdir=runs/large
#
# Submit it from the project's directory, with the environment activated. The flags are those of
# experiments.sweep. Finished runs are skipped: submit the same command again to continue after a
# time limit. With GPUs, add --gpus-per-task=1 to the options of sbatch.
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
# The last option leaves a minute to finish and save the current batch before the time limit.
set -euo pipefail
first=$SLURM_ARRAY_TASK_MIN last=$SLURM_ARRAY_TASK_MAX step=${SLURM_ARRAY_TASK_STEP:-1}
count=$SLURM_ARRAY_TASK_COUNT
# In a list such as 3,5, tasks can't know which part is theirs.
if [ $(((last - first) / step)) -ge "$count" ]; then
  echo "sweep_slurm.sh: --array must be a plain range such as 0-7;" \
    "finished runs are skipped" >&2
  exit 2
fi
index=$(((SLURM_ARRAY_TASK_ID - first) / step))
exec python -u -m experiments.sweep --shard="$index/$count" "$@"
