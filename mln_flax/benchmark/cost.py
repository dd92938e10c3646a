"""What a program costs before it runs: compile time, planned memory, floating-point operations."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.extend.core import ClosedJaxpr, Jaxpr

from mln_flax.models.convolution import COLUMNS


class Cost(NamedTuple):
    """A compiled program, and what is known of it."""

    call: Any
    compile_s: float  # tracing, lowering and compiling
    peak_bytes: int  # on each device: arguments, results and temporary arrays
    matrix_flops: int  # of matrix products and convolutions, on all devices together
    xla_flops: float | None  # of everything, as XLA counts; None where it does not


def compiled(function: Any, *shapes: Any) -> Cost:
    """A jitted or pmapped function for arguments of these shapes, compiled without any cache."""
    with _no_cache():
        started = time.perf_counter()
        lowered = function.lower(*shapes)
        call = lowered.compile()
        seconds = time.perf_counter() - started
    plan = call.memory_analysis()
    peak = (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes  # donated arguments, counted among the results too
    )
    analysis = call.cost_analysis() or {}
    per_device = analysis.get("flops", -1) if isinstance(analysis, dict) else -1
    xla_flops = per_device * jax.local_device_count() if per_device > 0 else None
    return Cost(call, seconds, peak, matrix_flops(function, *shapes), xla_flops)


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """Programs compiled inside are neither read from nor written to the persistent cache."""
    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    jax.config.update(name, False)
    compilation_cache.reset_cache()  # jax looks once only whether there is a cache
    try:
        yield
    finally:
        jax.config.update(name, before)
        compilation_cache.reset_cache()


def matrix_flops(function: Any, *shapes: Any) -> int:
    """Operations of all matrix products and convolutions, where a multiply-add counts as two."""
    return _flops(jax.make_jaxpr(function)(*shapes).jaxpr)


def _flops(jaxpr: Jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            summed = math.prod(_shape(eqn.invars[0])[axis] for axis in contracted)
            total += 2 * math.prod(_shape(eqn.outvars[0])) * summed
        elif name == "conv_general_dilated":
            kernel = _shape(eqn.invars[1])
            out_channels = kernel[params["dimension_numbers"].rhs_spec[0]]
            per_value = math.prod(kernel) // out_channels
            total += 2 * math.prod(_shape(eqn.outvars[0])) * per_value
        elif params.get("name") == COLUMNS:  # its kernel is zero in part
            summed = math.prod(_shape(eqn.invars[1])[:3])
            total += 2 * math.prod(_shape(eqn.outvars[0])) * summed
        else:
            times = params["length"] if name == "scan" else 1
            times *= params["mesh"].size if name == "shard_map" else 1  # each device does as much
            if name == "pallas_call":
                times *= math.prod(params["grid_mapping"].grid)
            total += times * sum(_flops(inner) for inner in _inside(params))
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inside(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs that an operation such as a scan or a jitted function holds."""
    for value in params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            if isinstance(inner, ClosedJaxpr):
                yield inner.jaxpr
            elif isinstance(inner, Jaxpr):
                yield inner
