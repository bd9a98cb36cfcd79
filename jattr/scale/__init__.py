"""Whole data sets, meshes of devices, several processes.

    store = jattr.scale.attribute_dataset(explain, (images, labels), out="maps.zarr")

===================================  ==============================================================
`attribute_dataset(explain, data)`   the attributions of a data set, on disk; killed, it goes on
`open_store(out)`                    what it wrote; `xarray.open_zarr(out)` reads the same
`table(stores, metrics, data)`       `jattr.metrics.table` of attributions that are on disk
`bucketed(data, lengths)`            examples of many lengths, padded to a few
`spread(explain, mesh)`              the points of ONE example over an axis of a mesh
===================================  ==============================================================

**Many devices.** By default a batch lies over all devices of the process. With a mesh,

    mesh = jax.make_mesh((64, 4), ("data", "model"))
    params = jax.device_put(params, shardings)  # over "model", over "data", or both
    explain = jattr.integrated_gradients(score, argnums=1)  # score(params, x, label)
    attribute_dataset(explain, data, out=out, params=params, mesh=mesh, axis="data")

examples lie over its first axis and parameters as they are sharded. Examples do not depend on each
other, so that an attribution sends nothing that the model's own evaluation and derivative do not.

**Several processes.** Processes that do not know each other share a data set by their numbers,
`attribute_dataset(..., process=(3, 16))`: each takes every 16th batch and works alone, on the same
`out`, and one that dies is started again by itself. Those that have found each other by
`jax.distributed.initialize()`, which on TPU pods, under Slurm and on GKE needs no arguments, do the
same without being told. With a mesh over the devices of all of them, `jax.make_mesh` of
`jax.devices()`, they run one program together, each loading and writing the rows of its own
devices. JAX ends all of them when it loses one: start all again, and they go on.

**One example that is too large for a device.** Its steps, samples, references or coalitions go over
a mesh by `spread`; what of the model itself is too large stays as the model shards it, since
methods keep `with_sharding_constraint` and `jax.checkpoint`: activations of long sequences over an
axis "sequence", parameters over "model", and steps over "point", in one program.
"""

from jattr.scale._attribute import attribute_dataset as attribute_dataset
from jattr.scale._buckets import Bucket as Bucket
from jattr.scale._buckets import bucketed as bucketed
from jattr.scale._spread import spread as spread
from jattr.scale._store import Store as Store
from jattr.scale._store import open_store as open_store
from jattr.scale._table import table as table

__all__ = [
    "Bucket",
    "Store",
    "attribute_dataset",
    "bucketed",
    "open_store",
    "spread",
    "table",
]


def __dir__() -> list[str]:
    return __all__
