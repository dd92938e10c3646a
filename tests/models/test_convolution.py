"""Convolutions in all their forms against the plain one, in values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mln_flax.models import convolution
from mln_flax.models.convolution import Convolution, convolve

# (B, H, W, C, D): each way there is: columns by four, by two and none, odd sides, roles of input
# and gradient exchanged, two and four strips, and a height that cannot be cut.
SHAPES = [
    (2, 5, 8, 3, 8),
    (2, 4, 6, 8, 16),
    (3, 6, 7, 1, 8),
    (1, 3, 4, 20, 8),
    (8, 4, 4, 32, 32),
    (4, 4, 5, 32, 33),
    (2, 8, 4, 8, 32),
    (2, 5, 4, 8, 32),
    (1, 8, 3, 40, 32),
]


def arrays(shape):
    b, h, w, c, d = shape
    rng = np.random.default_rng(0)
    drawn = (rng.normal(size=size) for size in ((b, h, w, c), (3, 3, c, d), (b, h, w, d)))
    return [jnp.float32(array) for array in drawn]


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_plain_convolution(shape):
    x, kernel, weight = arrays(shape)

    def results(function):
        y, transposed = jax.vjp(function, x, kernel)
        return y, *transposed(weight)

    for found, expected in zip(results(convolve), results(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def forms(shape):
    """How the convolutions of a value and its gradients are written: (strides, kernel's shape)."""
    x, kernel, weight = arrays(shape)
    jaxpr = jax.make_jaxpr(lambda x, k: jax.vjp(convolution._convolve, x, k)[1](weight))(x, kernel)
    text, written = jaxpr.jaxpr, []

    def look(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "conv_general_dilated":
                written.append((eqn.params["window_strides"], eqn.invars[1].aval.shape))
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", None)
                if inner is not None:
                    look(inner)

    look(text)
    return written


def test_the_shapes_above_take_every_way():
    """Without this a rule could change and the forms above would be tested no more."""
    strides = {form[0] for shape in SHAPES for form in forms(shape)}
    assert strides == {(1, 1), (1, 2), (1, 4)}
    # The kernel of the last one is a gradient [rows, W, strips * B, D], or x where C > D.
    assert forms((2, 8, 4, 8, 32))[-1][1] == (2, 4, 8, 32)
    assert forms((4, 4, 5, 32, 33))[-1][1] == (2, 5, 8, 33)
    assert forms((2, 5, 4, 8, 32))[-1][1] == (5, 4, 2, 32)
    assert forms((1, 3, 4, 20, 8))[-1][1] == (3, 4, 1, 20)


def test_it_is_the_convolution_of_flax_with_its_parameters():
    x = arrays((2, 6, 8, 3, 8))[0]
    ours, theirs = Convolution(8), nn.Conv(8, (3, 3), kernel_init=nn.initializers.he_normal())
    variables = ours.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, theirs.init(jax.random.key(0), x))
    bias = jnp.arange(8.0)
    variables = {"params": variables["params"] | {"bias": bias}}
    y, returned = ours.apply(variables, x)
    np.testing.assert_array_equal(returned, bias)
    np.testing.assert_allclose(y + bias[None, None, None], theirs.apply(variables, x), atol=1e-5)
    assert Convolution(8, use_bias=False).init_with_output(jax.random.key(0), x)[0][1] is None


def test_bfloat16_stays_what_it_is():
    x, kernel, weight = (array.astype(jnp.bfloat16) for array in arrays((2, 4, 8, 4, 8)))
    y, transposed = jax.vjp(convolve, x, kernel)
    assert {array.dtype for array in (y, *transposed(weight))} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(y.astype(jnp.float32), plain(x, kernel).astype(jnp.float32), 0.02)


def test_other_processors_than_cpus_get_the_plain_form(monkeypatch):
    x, kernel, _ = arrays((2, 4, 8, 4, 8))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "custom_vjp" not in str(jax.make_jaxpr(convolve)(x, kernel))
    np.testing.assert_allclose(convolve(x, kernel), plain(x, kernel), atol=1e-5)
