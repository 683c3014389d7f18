#!/usr/bin/env bash
# Whether the best learning rate of a small network is that of a wide or deep one, in several
# parametrizations: about 50 minutes on 2 cores of a busy CPU. Rerun it to continue after an
# interruption.
#
#   scripts/width_evidence.sh
#
# Runs go to runs/width-*, table and figures to scripts/results.
set -euo pipefail
cd "$(dirname "$0")/.."
transfer() { python -m experiments.transfer "$@"; }

# An MLP by width, with Adam: 5 minutes.
transfer --width=64,128,256,512,1024 --depth=3 --seeds=5 --workdir=runs/width-mlp

# The same with momentum: 2 minutes.
transfer --width=64,128,256,512 --depth=3 --optimizer=momentum --workdir=runs/width-momentum

# A transformer of patches by width: 42 minutes.
transfer --model=transformer --width=32,64,128,256 --depth=1 --seeds=6 \
  --learning_rate=0.000125:0.032 --batch_size=16 --workdir=runs/width-transformer

# A residual MLP by depth: 2 minutes.
transfer --width=64 --depth=2,4,8,16,32 --residual --scheme=standard,depth_mup,completep \
  --workdir=runs/width-depth

python scripts/width_table.py runs/width-mlp runs/width-momentum runs/width-transformer \
  runs/width-depth
