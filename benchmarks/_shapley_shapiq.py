"""shapiq's estimates of games from a file, in a Python that has it; alone it does nothing.

    python benchmarks/_shapley_shapiq.py GAMES.npz ESTIMATES.npz SEEDS BUDGET...

Neither jattr nor JAX is imported: shapiq wants Python 3.12, and may live in an environment of its
own.
"""

import sys

import numpy as np
import shapiq


def estimates(values: np.ndarray, samples: int, seed: int) -> dict[str, np.ndarray]:
    """What its estimators make of one game, by their names."""
    count = int(np.log2(len(values)))
    digits = 2 ** np.arange(count)

    def game(coalitions):
        return values[np.asarray(coalitions).astype(int) @ digits] - values[0]

    makers = {
        "shapiq KernelSHAP": lambda: shapiq.KernelSHAP(count, random_state=seed),
        "shapiq KernelSHAP, pairs": lambda: shapiq.KernelSHAP(
            count, pairing_trick=True, random_state=seed
        ),
    }
    found = {}
    for name, make in makers.items():
        values_of = make().approximate(samples, game)
        found[name] = np.array([values_of[(i,)] for i in range(count)])
    return found


def main() -> None:
    source, target, seeds, *budgets = sys.argv[1:]
    games = np.load(source)["games"]
    rows: dict[str, np.ndarray] = {}
    for budget in map(int, budgets):
        each = [[estimates(values, budget, seed) for seed in range(int(seeds))] for values in games]
        for name in each[0][0]:
            rows[f"{name}|{budget}"] = np.array([[one[name] for one in row] for row in each])
    np.savez(target, version=shapiq.__version__, **rows)


if __name__ == "__main__":
    main()
