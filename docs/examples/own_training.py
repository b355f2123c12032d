"""Small networks on scikit-learn's digits, trained by a loop of your own while Frontier says which.

Needs a running server (``frontier serve``), torch and scikit-learn. Its address is FRONTIER_URL, its key, if it asks
for one, FRONTIER_KEY. ::

    python docs/examples/own_training.py --budget 30
"""

from __future__ import annotations

import argparse
import os
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from service.client import Client, Running
from service.wire.searches import TrialOut
from service.wire.spaces import SpaceIn, Task
from service.wire.studies import EvaluatorSpec, ObjectiveIn, StudyIn

# What can be built: no code, only names. The width of a layer exists where the network is deep enough.
SPACE = SpaceIn(
    name="small-mlps",
    plugin="declared",
    options={
        "choices": [
            {"name": "depth", "options": [1, 2, 3]},
            {"name": "activation", "options": ["relu", "gelu", "tanh"]},
            {"name": "width1", "options": [8, 16, 32, 64]},
            {"name": "width2", "options": [8, 16, 32, 64], "when": {"depth": [2, 3]}},
            {"name": "width3", "options": [8, 16, 32, 64], "when": {"depth": [3]}},
            {"name": "dropout", "options": [0.0, 0.1, 0.3]},
        ]
    },
)
# `external`: nobody but you evaluates. The data set is only a name. Options are yours: they say how you train.
STUDY = StudyIn(
    name="own-training",
    space=SPACE.name,
    task=Task(dataset="sklearn-digits"),
    objectives=[
        ObjectiveIn(metric="error", bounds=(0.0, 0.9)),
        ObjectiveIn(metric="weights", direction="minimise", bounds=(500, 15_000)),
    ],
    evaluator=EvaluatorSpec(name="external", options={"epochs": 12}),
)
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@cache
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and validation images (n, 64) and labels (n,), the same split for everybody."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, validation = order[:1200], order[1200:]
    return images[train], labels[train], images[validation], labels[validation]


def build(config: dict[str, Any]) -> nn.Sequential:
    """The network that a configuration describes."""
    layers: list[nn.Module] = []
    before = 64
    for layer in range(config["depth"]):
        width = config[f"width{layer + 1}"]
        layers += [nn.Linear(before, width), ACTIVATIONS[config["activation"]](), nn.Dropout(config["dropout"])]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, 10))


def train(config: dict[str, Any], trial: Running) -> dict[str, float]:
    """Trains one network: what `Client.optimize` and ``frontier worker --evaluator`` call."""
    images, labels, validation_images, validation_labels = data()
    torch.manual_seed(trial.seed)
    network = build(config)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    epochs = max(1, round(trial.options["epochs"] * trial.fidelity))
    error = 1.0
    for epoch in range(epochs):
        network.train()
        for batch in torch.randperm(len(images)).split(100):
            optimiser.zero_grad()
            functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimiser.step()
        network.eval()
        with torch.inference_mode():
            error = float((network(validation_images).argmax(1) != validation_labels).float().mean())
        trial.report(epoch + 1, {"error": error}, total=epochs)  # raises when the result is not wanted any more
    return {"error": error, "weights": float(sum(weights.numel() for weights in network.parameters()))}


def show(trial: TrialOut) -> None:
    """One line per trial."""
    print(f"{trial.number:4d} {trial.state:11s} {trial.metrics or trial.reason} {trial.config}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=30, help="networks to train")
    parser.add_argument("--designer", default="guided", help="search algorithm")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    url = os.environ.get("FRONTIER_URL", "http://127.0.0.1:8470")
    with Client(url, key=os.environ.get("FRONTIER_KEY")) as frontier:
        frontier.spaces.create(SPACE)
        frontier.studies.create(STUDY)
        search = frontier.optimize(STUDY.name, train, designer=asked.designer, budget=asked.budget, on_trial=show)
        print(f"search {search.id} {search.name}: {search.state} {search.reason}")
        for point in frontier.studies.front(STUDY.name).points:
            print(f"error {point.metrics['error']:.4f}  weights {point.metrics['weights']:6.0f}  {point.config}")


if __name__ == "__main__":
    main()
