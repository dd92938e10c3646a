import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.compilation_cache import compilation_cache

from mln_flax import parallel
from mln_flax.benchmark import cost
from mln_flax.models import convolution

A, B = jnp.zeros((3, 5)), jnp.zeros((5, 7))
PRODUCT = 2 * 3 * 5 * 7


def repeated(a, b):
    return jax.lax.scan(lambda sums, _: (sums + a @ b, None), jnp.zeros((3, 7)), None, length=4)[0]


def of_programs(a, b):
    """Four programs of one kernel, each of which multiplies both."""

    def program(a_ref, b_ref, out_ref):
        out_ref[...] = a_ref[...] @ b_ref[...]

    shape = jax.ShapeDtypeStruct((3, 7), jnp.float32)
    return pl.pallas_call(program, out_shape=shape, grid=(2, 2), interpret=True)(a, b)


def batched(a, b):
    return jnp.einsum("nij,njk->nik", jnp.stack([a, a]), jnp.stack([b, b]))


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda a, b: a @ b, PRODUCT),
        (jax.jit(lambda a, b: a @ b), PRODUCT),
        (lambda a, b: jnp.exp(a) + 1, 0),
        (repeated, 4 * PRODUCT),
        (batched, 2 * PRODUCT),
        (of_programs, 4 * PRODUCT),
        (jax.grad(lambda a, b: (a @ b).sum(), argnums=(0, 1)), 3 * PRODUCT),
        (jax.grad(jax.checkpoint(lambda a, b: (jnp.sin(a @ b)).sum())), 3 * PRODUCT),
    ],
)
def test_matrix_products_are_counted_wherever_they_stand(function, wanted):
    assert cost.matrix_flops(function, A, B) == wanted


@pytest.mark.parametrize(("stride", "side"), [(1, 8), (4, 2)])
def test_a_convolution_is_a_product_at_every_place(stride, side):
    def convolved(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    found = cost.matrix_flops(convolved, jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 5)))
    assert found == 2 * (2 * side * side * 5) * (4 * 4 * 3)


def test_zeros_in_the_kernel_of_several_columns_are_not_counted():
    x, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 8))
    product = 2 * (2 * 8 * 8 * 8) * 9 * 4
    assert cost.matrix_flops(convolution.convolve, x, kernel) == product
    both = jax.grad(lambda *arrays: convolution.convolve(*arrays).sum(), argnums=(0, 1))
    # The gradient of a kernel is a convolution by a whole image, of which zeros are around it too.
    assert cost.matrix_flops(jax.jit(both), x, kernel) == 3 * product


def test_devices_count_together():
    mapped = jax.pmap(lambda a: a @ B, devices=jax.local_devices()[:1])
    assert cost.matrix_flops(mapped, A[None]) == PRODUCT


def test_a_compiled_program_runs_and_states_its_memory():
    update = parallel.parallel_update(lambda state, rows: (state + rows.sum(), rows[0]))
    count = jax.local_device_count()
    state, rows = jnp.zeros(1000), jnp.ones((count, 8, 1000))
    known = cost.compiled(update, state, rows)
    arguments_and_rows = 4 * (1000 + 8 * 1000 + 1000)
    assert arguments_and_rows <= known.peak_bytes < 3 * arguments_and_rows
    assert known.compile_s > 0 and known.matrix_flops == 0
    moved, _ = known.call(parallel.replicate(state), rows)
    assert moved.shape == (1000,)


def test_nothing_is_read_from_the_cache_or_written_to_it(tmp_path):
    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        cost.compiled(jax.jit(lambda a: jnp.sin(a) @ B), A)
        assert not list(tmp_path.iterdir())
        jax.jit(lambda a: jnp.cos(a) @ B).lower(A).compile()  # afterwards all is as it was
        assert list(tmp_path.iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
