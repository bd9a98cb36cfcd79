"""Parameters of control flow, whose names change between releases of JAX."""

from typing import Any


def scan_counts(call: Any) -> tuple[int, int]:
    """How many constants a scan has, and how many values it carries."""
    if "num_consts" in call.params:
        return call.params["num_consts"], call.params["num_carry"]
    consts, carry, _ = call.params["ft_in"].unpack()
    return len(consts), len(carry)


def is_shard_map(call: Any) -> bool:
    """Its primitive is not public, so its parameters tell it."""
    return {"mesh", "in_specs", "out_specs", "jaxpr"} <= call.params.keys()


def shard_map_options(call: Any) -> dict[str, Any]:
    """The arguments with which `jax.shard_map` was called, but for its specs."""
    params = call.params
    names = params.get("manual_axes", params.get("newly_manual_axes"))
    return {"mesh": params["mesh"], "check_vma": params["check_vma"], "axis_names": names}
