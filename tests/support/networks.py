"""Networks with drawn variables, for tests that compare what they compute."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np

FAST = {"xla_backend_optimization_level": 0}


def shapes_of(model, side=32):
    image = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    return jax.eval_shape(
        model.init, jax.random.key(0), image, jax.ShapeDtypeStruct((1,), jnp.int32)
    )


@functools.cache
def apply(model, train=False, mutable=()):
    """The jitted network; its answer lies in numpy, which indexes without compiling."""

    def call(variables, image, branch):
        more = {"mutable": mutable} if mutable else {}
        return model.apply(variables, image, branch, train=train, **more)

    jitted = jax.jit(call, compiler_options=FAST)
    return lambda *arrays: jax.device_get(jitted(*arrays))


def draw(model):
    """Random variables of a model; whatever is per branch differs between branches."""
    rng = np.random.default_rng(1)
    flat = flax.traverse_util.flatten_dict(dict(shapes_of(model)))
    drawn = {}
    for path, leaf in flat.items():
        value = rng.normal(scale=0.3, size=leaf.shape)
        if path[-1] == "kernel":
            value *= 5 / np.sqrt(np.prod(leaf.shape[:-1]))
        elif path[-1] in ("scale", "std"):
            value = 1 + np.abs(value)
        drawn[path] = value.astype(np.float32)
    return flax.traverse_util.unflatten_dict(drawn)


def of_branch(variables, b):
    """The variables of a plain model: row b of all that is per branch."""
    flat = flax.traverse_util.flatten_dict(variables)
    rows = {p: v[b : b + 1] if p[-2].startswith("norm") else v for p, v in flat.items()}
    return flax.traverse_util.unflatten_dict(rows)
