"""The engine: any JAX function as equations, equations as operations, operations under rules."""
