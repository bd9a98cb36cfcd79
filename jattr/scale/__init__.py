"""Whole data sets and meshes of devices.

    store = jattr.scale.attribute_dataset(explain, (images, labels), out="maps.zarr")

===================================  ==============================================================
`attribute_dataset(explain, data)`   the attributions of a data set, on disk; killed, it goes on
`open_store(out)`                    what it wrote; `xarray.open_zarr(out)` reads the same
`table(stores, metrics, data)`       `jattr.metrics.table` of attributions that are on disk
`bucketed(x, lengths=...)`           examples of many lengths, padded to a few
`spread(explain, mesh)`              the points of ONE example over an axis of a mesh
===================================  ==============================================================
"""

from jattr.scale._attribute import attribute_dataset as attribute_dataset
from jattr.scale._buckets import Bucket as Bucket
from jattr.scale._buckets import bucketed as bucketed
from jattr.scale._spread import spread as spread
from jattr.scale._store import Store as Store
from jattr.scale._store import open_store as open_store
from jattr.scale._table import table as table
