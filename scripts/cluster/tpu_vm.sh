#!/usr/bin/env bash
# Trains one network on all hosts of a slice of TPU VMs. From the project's directory:
#
#   export TPU=NAME ZONE=us-central2-b
#   gcloud compute tpus tpu-vm create "$TPU" --zone="$ZONE" --accelerator-type=v4-32 \
#     --version=tpu-ubuntu2204-base
#   scripts/cluster/tpu_vm.sh install
#   scripts/cluster/tpu_vm.sh run --checkpoint_every=500 --workdir=/mnt/runs/one
#   scripts/cluster/tpu_vm.sh log
#   scripts/cluster/tpu_vm.sh stop
#   scripts/cluster/tpu_vm.sh fetch /mnt/runs/one runs/
#   gcloud compute tpus tpu-vm delete "$TPU" --zone="$ZONE" # until then it costs money
#
# `install` sends the last commit, and `run` starts experiments.mnist on every host. Only one host
# logs how training goes, the others only errors. `stop` has the run write a checkpoint, from which the
# same `run` goes on, also on a new slice.
#
# With several hosts, --workdir must be on storage that all of them mount, such as NFS of Filestore:
#
#   gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command='sudo apt-get update &&
#     sudo apt-get install -y nfs-common && sudo mkdir -p /mnt/runs &&
#     sudo mount ADDRESS:/SHARE /mnt/runs && sudo chmod a+rwx /mnt/runs'
set -euo pipefail

refuse() {
  echo "tpu_vm.sh: $*" >&2
  exit 2
}
vm() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }
on_all_hosts() { vm ssh "$TPU" --worker=all --command="$1"; }

task=${1:-}
[ $# -eq 0 ] || shift
case $task in
  install | run | log | stop) ;;
  fetch) [ $# -eq 2 ] || refuse "fetch needs two paths: one of the slice, and one here" ;;
  *) refuse "the first argument must be install, run, log, stop or fetch, not '$task'" ;;
esac
if [ -z "${TPU:-}" ] || [ -z "${ZONE:-}" ]; then
  refuse "set TPU and ZONE, the name and the zone of the slice: export TPU=NAME ZONE=us-central2-b"
fi

# The process of this run on a host, and no other one that has got its number since.
mine='-F run.pid -f experiments.mnist'
case $task in
  install)
    archive=$(mktemp)
    trap 'rm "$archive"' EXIT
    git archive --format=tar.gz --prefix=initjax/ HEAD >"$archive"
    vm scp "$archive" "$TPU:initjax.tar.gz" --worker=all
    # The Python of these machines is too old. uv brings one along.
    on_all_hosts "set -e; tar -xzf initjax.tar.gz; cd initjax; python3 -m pip install --user uv
      ~/.local/bin/uv venv --clear --python 3.12
      ~/.local/bin/uv pip install --editable '.[experiments]' 'jax[tpu]'"
    ;;
  run)
    # Else `stop` would miss the run that goes on.
    on_all_hosts "cd initjax; if pgrep $mine >/dev/null 2>&1
      then echo 'a run goes on here; stop it first' >&2; exit 1; fi
      nohup .venv/bin/python -u -m experiments.mnist --distributed=auto \
      --resume${*:+$(printf ' %q' "$@")} >>run.log 2>&1 </dev/null & echo \$! >run.pid"
    ;;
  log) on_all_hosts "tail -n 20 initjax/run.log" ;;
  stop) on_all_hosts "cd initjax; pkill -USR1 $mine 2>/dev/null || echo 'nothing runs here'" ;;
  fetch) vm scp --recurse "$TPU:$1" "$2" --worker=0 ;;
esac
