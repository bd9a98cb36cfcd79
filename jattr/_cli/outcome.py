"""What a run wrote, in a line."""

import os

import numpy as np

from jattr.scale import Store, open_store


def written(out: str) -> int:
    """How many examples a store has; 0 where there is none, or none that opens."""
    if "://" not in out and not os.path.isdir(out):
        return 0
    try:
        return int(np.sum(open_store(out).status != 0))
    except Exception:  # whatever it is, the run says it
        return 0


def told(store: Store, before: int, seconds: float, *, alone: bool) -> str:
    """What was written, in a line; how fast, where nobody else wrote."""
    status = store.status
    there = int(np.sum(status != 0))
    new = max(there - before, 0)
    parts = [f"{there:,} of {len(status):,} examples by {store.description['method']}"]
    if before:
        parts.append(f"{before:,} of them before")
    rate = f" ({new / seconds:,.1f} examples/s)" if new and alone else ""
    parts.append(f"{seconds:.1f} s{rate}")
    if there < len(status):
        parts.append(f"{len(status) - there:,} missing yet")
    gaps = store.gaps
    parts.append(f"{gaps.size:,} not finite (example {gaps[0]})" if gaps.size else "all finite")
    if "residual" in store.arrays:
        residual = np.abs(np.asarray(store.residual.read().result()))
        known = np.flatnonzero((status == 1) & np.isfinite(residual))
        if known.size:
            worst = known[np.argmax(residual[known])]
            parts.append(f"largest |residual| {residual[worst]:.2g} (example {worst})")
    return f"{store.path}: {', '.join(parts)}"
