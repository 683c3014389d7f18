"""The reference experiment in PyTorch: `python pytorch_mnist.py [EPOCHS [RUNS]]`.

The data are in memory, shuffled by one `randperm` per epoch. That is several times faster than a
`DataLoader`: the comparison is with PyTorch at its best, not with its tutorial.
"""

import mnist_idx
import torch
from torch import nn

(x, y), (x_test, y_test) = (
    (torch.from_numpy(images.copy()).float() / 255, torch.from_numpy(labels.copy()).long())
    for images, labels in mnist_idx.load()
)
for seed in range(mnist_idx.runs()):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    for layer in model[::2]:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    cross_entropy = nn.CrossEntropyLoss()

    for epoch in range(1, mnist_idx.epochs() + 1):
        total_loss = torch.zeros(())
        total_correct = torch.zeros(())
        for batch in torch.randperm(len(x)).split(128):
            images, labels = x[batch], y[batch]
            logits = model(images)
            loss = cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total_loss += loss.detach() * len(batch)
            total_correct += (logits.argmax(1) == labels).sum()
        with torch.no_grad():
            logits = model(x_test)
            val_loss = cross_entropy(logits, y_test)
            val_acc = (logits.argmax(1) == y_test).float().mean()
        print(
            f"epoch {epoch}: loss {total_loss / len(x):.4f} - acc {total_correct / len(x):.4f}"
            f" - val_loss {val_loss:.4f} - val_acc {val_acc:.4f}"
        )
