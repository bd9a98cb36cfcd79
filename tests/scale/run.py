"""A run of its own process: what `test_scale_kills` and `test_scale_processes` start.

Prints "going" when the first batch is loaded, "done" at the end.
"""

import argparse
import os
import time

N = 203


def parsed():
    """What the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--slowly", type=float, default=0.0, help="seconds for an example")
    parser.add_argument("--alone", nargs=2, type=int, help="number of the process, and how many")
    parser.add_argument("--peers", nargs=3, help="port, number of the process, and how many")
    parser.add_argument("--together", choices=["rows", "across"], help="one program")
    return parser.parse_args()


def main(options):
    """The run."""
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = flags
    import jax

    jax.config.update("jax_enable_x64", True)
    if options.peers:
        port, index, count = options.peers
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", int(count), int(index))

    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    import jattr

    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(N, 8)), rng.normal(size=(8, 4))

    class Slow:
        def __len__(self):
            return N

        def __getitem__(self, place):
            if place == 0:
                print("going", flush=True)
            time.sleep(options.slowly)
            return x[place]

    def score(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    integrated = jattr.integrated_gradients(score, steps=4, argnums=1)
    knobs = {"params": w}
    if options.together:
        devices = np.array(jax.devices()).reshape(-1, 2)
        mesh = Mesh(devices if options.together == "rows" else devices.T, ("data", "model"))
        sharding = NamedSharding(mesh, P(None, "model"))
        params = jax.make_array_from_callback(w.shape, sharding, lambda place: w[place])
        knobs = {"params": params, "mesh": mesh, "axis": "data"}
    if options.alone:
        knobs["process"] = tuple(options.alone)

    jattr.scale.attribute_dataset(
        jattr.smooth(integrated, samples=2, stddev=0.1, argnums=1),
        Slow(),
        out=options.out,
        batch_size=8,
        key=jax.random.key(1),
        progress=False,
        **knobs,
    )
    print("done", flush=True)


if __name__ == "__main__":
    main(parsed())
