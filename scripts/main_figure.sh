#!/usr/bin/env bash
# Makes the README's main figure: 7 initializers x 30 seeds x 5 epochs on all of MNIST, on a
# workstation, about 4 minutes on 2 cores of a CPU. Stopped and given again it goes on.
#
#   scripts/main_figure.sh [--FLAG=VALUE ...]     the flags are those of experiments.sweep
#
# All goes to runs/main, whatever --workdir says.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m experiments.sweep --seeds=30 "$@" --workdir=runs/main
python -m experiments.report runs/main
