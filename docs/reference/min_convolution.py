"""Draws docs/min-convolution.svg: how far the pooled min-convolution is from the exact one."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch

import l2rfast

matplotlib.use("svg")

import matplotlib.pyplot as plt


def main() -> None:
    matplotlib.rcParams |= {"svg.hashsalt": "l2rfast", "font.size": 9}
    steps = torch.arange(15) - 7
    single = torch.full((1, 15, 15, 1, 1), 10.0)
    single[0, 7, 7] = 0
    generator = torch.Generator().manual_seed(4)
    rough = 5 + 0.12 * (steps.view(1, 15, 1, 1, 1) ** 2 + steps.view(1, 1, 15, 1, 1) ** 2)
    rough = rough + 2.5 * torch.randn(rough.shape, generator=generator)
    figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
    for panel, cost, title in zip(panels, (single, rough), ("a single low cost", "noise on a bowl"), strict=True):
        curves = {
            "cost": (cost, "0.6", "o"),
            "exact, weight 0.5": (l2rfast.min_convolution(cost, 0.5), "tab:blue", "."),
            "pooled": (l2rfast.min_convolution(cost, method="pooled"), "tab:red", "."),
        }
        for label, (values, colour, marker) in curves.items():
            panel.plot(
                steps, values[0, 7, :, 0, 0], color=colour, marker=marker, markersize=4, linewidth=1, label=label
            )
        panel.set_title(title)
        panel.set_xlabel("displacement, in steps, through the middle of 15 x 15")
    panels[0].set_ylabel("cost")
    panels[1].legend(loc="upper center")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("min-convolution.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
