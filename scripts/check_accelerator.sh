#!/usr/bin/env bash
# Checks initjax on a GPU or TPU, in less than 8 minutes, and prints one table. Exits with 1 if a
# check failed. A check that runs out of time is stopped, and the next one starts.
#
#   scripts/check_accelerator.sh [DIR]     where logs and results go (default: runs/accelerator)
#
# It needs `pip install -e '.[test]'` and JAX for the accelerator. To try it on a CPU, set
# JAX_PLATFORMS=cpu.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
case ${1:-} in -*) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
directory=${1:-runs/accelerator/$(date +%Y-%m-%d-%H%M%S)}
mkdir -p "$directory" || exit 2
table=$directory/table.txt
[ -e "$table" ] && { echo "$directory holds an earlier check; choose another directory" >&2; exit 2; }
failed=0
# Several processes share the accelerator.
export XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1

row() { printf '%-10s %-8s %5s  %s\n' "$@" | cut -c1-200 | tee -a "$table"; }

# check NAME SECONDS PATTERN COMMAND...: shows the last lines of the output that match the pattern,
# and of a check that failed the last line of all.
check() {
  local name=$1 limit=$2 pattern=$3 log start=$SECONDS code result lines
  shift 3
  log=$directory/${name// /_}.log
  timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1
  code=$?
  case $code in 0) result=ok ;; 124 | 137) result="time out" ;; *) result=FAILED ;; esac
  [ "$code" = 0 ] || failed=1
  mapfile -t lines < <(grep -E "$pattern" "$log" | tail -6)
  [ ${#lines[@]} -gt 0 ] || mapfile -t lines < <(grep . "$log" | tail -1)
  row "$name" "$result" "$((SECONDS - start))" "${lines[0]:-}"
  for line in "${lines[@]:1}"; do row "" "" "" "$line"; done
}

row check result seconds ""
check versions 30 '^(jax|Python)' python - <<'PYTHON'
import os, platform, subprocess
import flax, jax, initjax
revision = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
versions = f"jax {jax.__version__}, flax {flax.__version__}, initjax {initjax.__version__}"
print(f"Python {platform.python_version()}, {versions} {revision.stdout.strip()}")
device = jax.devices()[0]
print(f"jax sees {jax.device_count()} x {device.device_kind}")
asked = os.environ.get("JAX_PLATFORMS")
assert device.platform != "cpu" or asked == "cpu", "no accelerator: JAX found only a CPU"
PYTHON
[ $failed = 0 ] || exit 1 # nothing that follows would be about an accelerator
check "main job" 40 '^val_acc' \
  python -m experiments.mnist --init=glorot_uniform --workdir="$directory/mnist"
check sweep 60 '^(glorot|he)_normal' \
  python -m experiments.sweep --init=glorot_normal,he_normal --seeds=30 --workdir="$directory/sweep"
check draws 60 '\|' python scripts/benchmarks/initializers.py --sizes=200_000_000 \
  --dtypes=float32 --initializers=normal,he_normal --results="$directory"
check audits 130 '\|' python scripts/benchmarks/audit.py --rounds=1 \
  --models=mlp,deep,resnet,gpt2 --results="$directory"
# Those that depend on how a device rounds, multiplies, shards and allocates.
check tests 150 '^(FAILED|[0-9]+ (passed|failed)|=.* in )' python -m pytest -q \
  tests/initjax/test_{backends,initializers,laws,orthogonal,structured,trees}.py \
  tests/initjax/auditing/test_{accelerator,fix,measure,statistics}.py
echo "logs and results: $directory"
exit $failed
