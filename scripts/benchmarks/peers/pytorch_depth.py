"""A deep network in PyTorch: `python pytorch_depth.py DEPTH WIDTH STEPS RUNS [--compile]`.

The data are in memory, and the optimizer is PyTorch's fastest, one operation for all parameters.
One network is initialized again for each run, so that with `--compile` it is compiled only once.
"""

import sys

import mnist_idx
import torch
from torch import nn

depth, width, steps, runs = map(int, sys.argv[1:5])
(x, y), (x_test, y_test) = (
    (torch.from_numpy(images.copy()).float() / 255, torch.from_numpy(labels.copy()).long())
    for images, labels in mnist_idx.load()
)
mean, stddev = x.mean(), x.std()
x, x_test = (x - mean) / stddev, (x_test - mean) / stddev
layers = [nn.Linear(784, width), *(nn.Linear(width, width) for _ in range(depth - 1))]
model = nn.Sequential(
    *(part for layer in layers for part in (layer, nn.Tanh())), nn.Linear(width, 10)
)
forward = torch.compile(model) if "--compile" in sys.argv else model
cross_entropy = nn.CrossEntropyLoss()
for seed in range(runs):
    torch.manual_seed(seed)
    for layer in layers:
        nn.init.normal_(layer.weight, std=(1.76 / layer.in_features) ** 0.5)
        nn.init.normal_(layer.bias, std=0.05**0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 / depth, momentum=0.9, fused=True)
    total_loss = torch.zeros(())
    for batch in torch.randperm(len(x))[: 64 * steps].split(64):
        loss = cross_entropy(forward(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.detach()
    with torch.no_grad():
        val_acc = (forward(x_test).argmax(1) == y_test).float().mean()
    print(f"seed {seed}: loss {total_loss / steps:.4f} - val_acc {val_acc:.4f}", flush=True)
