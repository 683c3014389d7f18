#!/usr/bin/env bash
# Runs a program of experiments as a Slurm job that goes on after preemption and time limits. Activate
# the project's environment, or have it in .venv, and submit from the project's directory. Both, and
# --workdir, must be on a shared file system.
#
# A grid, each task of the array a part of it, all in one directory:
#
#   sbatch --array=0-7 scripts/cluster/slurm.sh sweep --seeds=100 --workdir=runs/large
#
# (or depth, or transfer; for GPUs, add --gres=gpu:1). One run on several nodes:
#
#   sbatch --nodes=2 --ntasks-per-node=4 --gres=gpu:4 scripts/cluster/slurm.sh \
#     mnist --mesh=data:8 --checkpoint_every=500 --workdir=runs/one
#
# is one process for each GPU; with --ntasks-per-node=1, one for each node has all of its GPUs.
#
# The job requeues itself when its time limit is near, and, up to 3 times, after a failure. Failures
# are counted in slurm-JOB.failures. Finished work is skipped: submit the same command again to go on.
#
#SBATCH --job-name=initjax
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
# The last option leaves time to save what is done: Slurm sends USR1 about three minutes early.
set -euo pipefail
retries=3

say() { echo "slurm.sh: $*" >&2; }

if [ -z "${SLURM_JOB_ID:-}" ] || [ -z "${SLURM_CPUS_PER_TASK:-}" ]; then
  say "this is a job script: submit it with sbatch, as its first lines show"
  exit 2
fi
if [ ! -f experiments/sweep.py ]; then
  say "submit from the project's directory, not from $PWD"
  exit 2
fi
# The environment is that of sbatch, or else the project's own. Load your cluster's modules here.
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -f .venv/bin/activate ]; then
  # shellcheck disable=SC1091 # it isn't part of the repository
  source .venv/bin/activate
fi
installed='from importlib.util import find_spec as f; exit(not (f("jax") and f("pyarrow")))'
if ! python -c "$installed" >/dev/null 2>&1; then
  say "no Python with this project installed: activate its environment before sbatch, or make .venv"
  exit 2
fi
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-$SLURM_CPUS_PER_TASK}

job=$SLURM_JOB_ID
case ${1:-} in
  sweep | depth | transfer)
    command=(python -u -m "experiments.$1")
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
      # shellcheck disable=SC2153 # these names are Slurm's
      first=$SLURM_ARRAY_TASK_MIN last=$SLURM_ARRAY_TASK_MAX step=${SLURM_ARRAY_TASK_STEP:-1}
      count=$SLURM_ARRAY_TASK_COUNT
      # In a list such as 3,5, tasks can't know which part is theirs.
      if [ $(((last - first) / step)) -ge "$count" ]; then
        say "--array must be a plain range such as 0-7; finished runs are skipped"
        exit 2
      fi
      command+=("--shard=$(((SLURM_ARRAY_TASK_ID - first) / step))/$count")
      job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID # SLURM_JOB_ID might name the whole array
    fi
    ;;
  mnist)
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
      say "mnist is one run: submit it without --array, or train many runs with sweep"
      exit 2
    fi
    # Under Slurm, JAX has each process use one GPU, unless told otherwise.
    if [ "$SLURM_NTASKS" = "$SLURM_JOB_NUM_NODES" ] && [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
      JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
      export JAX_LOCAL_DEVICE_IDS
    fi
    # Processes end by themselves; of their exit codes, srun has the highest: that of a process that
    # was lost, such as 137, and else 75. One that is stuck is ended.
    command=(srun "--cpus-per-task=$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=60
      python -u -m experiments.mnist --distributed=auto --resume)
    ;;
  *)
    say "the first argument must be sweep, depth, transfer or mnist, not '${1:-}'"
    exit 2
    ;;
esac
shift

# Slurm sends USR1 to this shell alone, and TERM to all processes, when it ends the job: preempted
# jobs are requeued by Slurm, and canceled ones must not be.
again='' ended=''
trap 'again=yes; kill -USR1 ${!:-} || true' USR1
trap 'again=yes ended=yes' TERM
"${command[@]}" "$@" &
while
  status=0
  wait $! || status=$?
  [ -n "$again" ] # a signal has ended the waiting
do again=''; done

# The exit codes are those of experiments/README.md: 2 for a wrong command, 75 for "not finished", also
# 138 and 143 for USR1 and TERM that came before Python could handle them. Failures of all starts of
# this job are counted in a file, since Slurm also counts restarts after preemptions and time limits.
# The last line says what to do, since the advice of the programs is for a terminal.
failures=slurm-$job.failures
if [ $status -eq 0 ] || [ $status -eq 2 ]; then
  rm -f "$failures"
  exit $status
elif [ -n "$ended" ]; then
  say "ended by Slurm: a preempted job goes on by itself; else submit the same command to go on"
  exit $status
elif [ $status -eq 75 ] || [ $status -eq 138 ] || [ $status -eq 143 ]; then
  say "not finished; requeuing, so it goes on by itself"
else
  echo "exit code $status" >>"$failures"
  if [ "$(wc -l <"$failures")" -gt $retries ]; then
    rm "$failures"
    say "failed with exit code $status after $retries retries; submit the same command to go on"
    exit $status
  fi
  say "failed with exit code $status; requeuing, so it is tried again by itself"
fi
scontrol requeue "$job" || say "it can't be requeued; submit the same command to go on"
exit $status
