"""A CSV file with columns of every kind."""

import csv

import numpy as np

ROWS = 200


def content(rows=ROWS, seed=0):
    """Columns of every kind, as text of a CSV file; "" is a missing value."""
    rng = np.random.default_rng(seed)
    missing = lambda values: ["" if u < 0.1 else value for u, value in zip(rng.random(rows), values, strict=True)]  # noqa: E731
    heights = [f"{height:.2f}" for height in rng.normal(170, 10, rows)]
    return {
        "id": [str(i + 7) for i in range(rows)],
        "city, town": missing(rng.choice(["Oslo", "Rome, old", 'New "York"'], rows).tolist()),
        "owner": rng.choice(["true", "false"], rows).tolist(),
        "hidden": missing(rng.choice(["true", "false"], rows).tolist()),
        "smokes": rng.choice(["0", "1"], rows).tolist(),
        "rating": [str(i % 5 + 1) for i in range(rows)],
        "visits": missing([str(i % 40) for i in range(rows)]),
        "height": missing(heights),
        "change": [str(i) for i in rng.integers(-50, 50, rows)],
        "large": [str(i) for i in rng.integers(2**25, 2**40, rows)],
        "note": [f"text {i}" for i in range(rows)],
        "same": ["4"] * rows,
    }


def write_csv(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path
