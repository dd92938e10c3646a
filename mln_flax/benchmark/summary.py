"""What a config's network is made of, and the memory that a training step needs."""

import jax

from mln_flax.benchmark import step_cost
from mln_flax.engine.build import Run
from mln_flax.models import core
from mln_flax.results.table_layout import Table


def summary(run: Run) -> str:
    """Tables of layers and parameters, and the compiled step's memory, as text."""
    state, batch = step_cost.shapes(run)
    rows, side = batch.mask.shape[1:3]
    counts, k = core.parameters(state.params), run.model.num_branches
    shared, per_branch = core.shared_and_per_branch(run.model, state.params)
    lines = [
        _layers(counts).to_text(),
        f"input: {side} x {side} pixels; branches: {k}",
        f"parameters: {shared + per_branch * k:,} = {shared:,} shared + "
        f"{k} x {per_branch:,} per branch",
        _memory(run, rows),
    ]
    return "\n".join(lines)


def _layers(parameters: dict[str, int]) -> Table:
    """One row per block or other top-level part, in the order of the network."""
    parts: dict[str, list[int]] = {}
    for name, count in parameters.items():
        column = int(core.is_per_branch(name))
        parts.setdefault(name.split("/")[0], [0, 0])[column] += count
    rows = tuple(
        (name, f"{shared:,}", f"{branched:,}") for name, (shared, branched) in parts.items()
    )
    return Table("Layers", ("part", "shared", "all branches"), rows, "")


def _memory(run: Run, rows: int) -> str:
    """The step's memory as the compiler plans it, without running anything."""
    plan = step_cost.compiled(run).call.memory_analysis()
    held, temporary = plan.argument_size_in_bytes, plan.temp_size_in_bytes
    return (
        f"one step on each of {jax.local_device_count()} device(s), {rows} rows: "
        f"{(held + temporary) / 2**30:.2f} GiB = {held / 2**30:.2f} state and batch + "
        f"{temporary / 2**30:.2f} temporary"
    )
