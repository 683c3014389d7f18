#!/usr/bin/env bash
# What theory and rules of thumb say about deep networks, put to the test: about 30 minutes on 2
# cores of a CPU. Rerun it to continue after an interruption.
#
#   scripts/depth_evidence.sh
#
# Runs go to runs/depth-*, tables and figures to scripts/results.
set -euo pipefail
cd "$(dirname "$0")/.."
depth() { python -m experiments.depth "$@"; }

# The trainability diagram of tanh: 13 minutes.
variances=1,1.1,1.2,1.3,1.4,1.5,1.6,1.76,2,2.3,2.6,3,3.5,4
depth --weight_variance=$variances --depth=6,8,11,15,20,27,36,48,64,85 --width=128 --seeds=4 \
  --workdir=runs/depth-diagram

# Networks of 200 layers: 3 minutes.
very_deep() { depth --depth=200 --width=64 --steps=600 --seeds=6 --learning_rate=0.0001,0.0003,0.001 "$@"; }
very_deep --init=orthogonal,lecun_normal,he_normal --workdir=runs/depth-200
very_deep --weight_variance=1.76 --workdir=runs/depth-200-bias

# The rules of thumb, with the optimizer that most people use: 3 minutes.
depth --init="he_normal,glorot_normal,lecun_normal,orthogonal,orthogonal(1.4142)" \
  --activation=relu,tanh,sigmoid,selu --depth=3,10,30 --width=64 --seeds=6 \
  --optimizer=adam --learning_rate=0.0003,0.001,0.003,0.01 --workdir=runs/depth-rules

# The same of plain convolutional networks: 8 minutes.
depth --model=cnn --width=16 --depth=4,10,20 --activation=relu,tanh --seeds=6 --steps=200 \
  --init="he_normal,glorot_uniform,lecun_normal,delta_orthogonal,delta_orthogonal(1.4142)" \
  --optimizer=adam --learning_rate=0.003,0.001 --workdir=runs/depth-cnn

python scripts/depth_table.py runs/depth-diagram runs/depth-200 runs/depth-200-bias \
  runs/depth-rules runs/depth-cnn
