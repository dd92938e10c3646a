"""Products whose gradient is summed in parts: equal to the plain one, and unchanged on CPUs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mln_flax.models import products, swin


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ((131_072, 96, 288), 32),  # 3 tiles: 42 parts would do, 32 divide the tokens
        ((131_072, 384, 96), 32),
        ((2048, 768, 3072), 1),  # enough tiles as it is
        ((4096, 8, 8), 4),  # not below 1024 tokens each
        ((3 * 1031, 8, 8), 3),
        ((31, 8, 8), 1),
    ],
)
def test_how_many_parts(sizes, parts):
    assert products.count_parts(*sizes) == parts


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_a_sum_in_parts_is_the_sum(dtype, tolerance, monkeypatch):
    """Against float64, by NumPy."""
    monkeypatch.setattr(products, "LEAST_TOKENS", 8)
    random = np.random.default_rng(0)
    tokens, c, d = 96, 3, 5
    x, kernel, weight = (
        jnp.asarray(random.normal(size=size), dtype) for size in ((tokens, c), (c, d), (tokens, d))
    )
    assert products.count_parts(tokens, c, d) == 12
    out, transposed = jax.vjp(products.split_dot, x, kernel)
    exact = [np.asarray(v, np.float64) for v in (x, kernel, weight)]
    wanted = exact[0] @ exact[1], exact[2] @ exact[1].T, exact[0].T @ exact[2]
    for ours, other in zip((out, *transposed(weight)), wanted, strict=True):
        assert ours.dtype == dtype
        scale = np.abs(other).max()
        ours = np.asarray(ours, np.float64)
        np.testing.assert_allclose(ours / scale, other / scale, atol=tolerance)


def gradient_program(layer, *size):
    """The traced gradient of a layer's parameters, as text."""
    x = jax.ShapeDtypeStruct(size, jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    gradient = jax.grad(lambda p, x: layer.apply({"params": p}, x).sum())
    return str(jax.make_jaxpr(gradient)(params, x))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_dense_layers_sum_in_parts_on_accelerators_alone(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    of_mlp = gradient_program(swin.Mlp(8), 4, 32, 32, 6)
    of_attention = gradient_program(swin.QueryKeyValue(), 4096, 2)
    # Four parts each of fc1's gradient and of that of queries, keys and values.
    assert ("f32[4,6,8]" in of_mlp) == ("f32[4,2,6]" in of_attention) == (backend == "gpu")


def test_on_a_cpu_a_dense_layer_is_traced_as_without_this():
    def program(**options):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x):
                return swin.dense(3, jnp.bfloat16, "dense", **options)(x)

        return gradient_program(Layer(), 2, 8, 4)

    assert program() == program(dot_general=jax.lax.dot_general)
