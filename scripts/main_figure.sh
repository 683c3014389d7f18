#!/usr/bin/env bash
# Repeats the published comparison and makes its figure: 7 initializers x 30 seeds x 5 epochs on all
# of MNIST, in about 4 minutes on 2 cores of a CPU. Rerun it to continue after an interruption.
#
#   scripts/main_figure.sh [--FLAG=VALUE ...]     the flags are those of experiments.sweep
#
# Runs and report go to runs/main, even if --workdir is given; table and figure to scripts/results.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m experiments.sweep --seeds=30 "$@" --workdir=runs/main
python -m experiments.report runs/main
python scripts/published_table.py runs/main
