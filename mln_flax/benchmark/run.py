"""How fast a config's programs run here, alone or in turns with a PyTorch network."""

import dataclasses
import json
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mln_flax import parallel
from mln_flax.benchmark import growth, speeds, step_cost, timing, yardstick
from mln_flax.benchmark.cost import Cost
from mln_flax.benchmark.speeds import Measurements
from mln_flax.benchmark.timing import Program, Spread
from mln_flax.benchmark.yardstick import Yardstick
from mln_flax.config import PROGRAMS, Config
from mln_flax.data.images import Images, from_arrays
from mln_flax.data.phantoms import phantom
from mln_flax.engine import input_pipeline
from mln_flax.engine.build import Run, build, plan
from mln_flax.engine.states import random_state
from mln_flax.models.core import all_branches
from mln_flax.types import Batch, UserError

PHANTOMS = 24  # in the input pipeline
LABELED = 0.05  # share of the random masks' pixels
FITTED = 2  # of these phantoms, by which a model is fitted that has learned nothing
INPUT_S = 2.0  # of every measurement of the input pipeline
STEPS_MEASURED = 3  # while the memory is watched
PYTORCH = "PyTorch: "  # before the names of its programs


def benchmark(config: Config, commit: str) -> dict[str, Any]:
    """What was measured; printed as a table and, last, as one line of JSON.

    Raises:
      UserError: as from `measure`.
    """
    if config.benchmark.growth:
        summary = growth.growth(config, lambda changed: speeds.line(measure(changed)[0]))
    else:
        ours, theirs = measure(config)
        print(f"\n{speeds.table(config, ours, theirs).to_text()}\n")
        summary = speeds.report(ours, theirs)
    summary["settings"] = speeds.settings(config, build(config), commit)
    print(json.dumps(summary), flush=True)
    return summary


def measure(config: Config) -> tuple[Measurements, Measurements | None]:
    """Costs and speeds of our programs, and of the other's where there is one.

    Raises:
      UserError: `benchmark.against` cannot be used, or views are to be made by the step.
    """
    if config.views.on_device:
        raise UserError(
            "--config.views.on_device=true: the benchmark times a step behind its views, wherever "
            "they are made; leave it false"
        )
    jax.clear_caches()  # of an earlier measurement: its programs hold memory
    several, single = build(config), build(one_view(config))
    for line in speeds.misfits(config.data.size, several.model):
        print(f"benchmark: {line}", flush=True)
    on_gpu = jax.default_backend() == "gpu"
    other = yardstick.load(config, single.model, on_gpu) if config.benchmark.against else None
    wanted = config.benchmark.only or PROGRAMS
    steps = {"train": single, "train_views": several}
    costs = {name: step_cost.compiled(run) for name, run in steps.items() if name in wanted}
    ours = speeds.of_costs(costs)
    if not config.benchmark.runs:
        return ours, None
    theirs: Measurements = {}
    if "train" in wanted:
        note_memory(single, costs["train"], other, ours, theirs)
    programs = our_programs(several, single, costs, wanted)
    if other is not None:
        programs = in_turns(programs, pytorch_programs(several, other, wanted))
    flop, product = large_product(config.model.dtype)
    programs["matmul"] = product
    print(f"benchmark: {len(programs)} programs, {config.benchmark.runs} runs of each", flush=True)
    seconds = timing.alternate(programs, config.benchmark.runs)
    chips = 1 if jax.default_backend() == "cpu" else jax.local_device_count()
    rate = seconds.pop("matmul").rate(flop * chips)
    ours["matmul_gflop_per_s"] = rate.times(1e-9)
    images = config.train.batch_size
    ours |= speeds.of_seconds(_named(seconds, ""), images, rate, ours.get("train_gflop"))
    if "input" in wanted:
        ours["input_images_per_s"] = input_rate(several)
    if other is None:
        return ours, None
    timed = yardstick.as_ours(_named(seconds, PYTORCH), wanted)
    return ours, theirs | speeds.of_seconds(timed, images, rate, theirs.get("train_gflop"))


def one_view(config: Config) -> Config:
    """The settings with one view and one branch: what a plain network trains on."""
    return dataclasses.replace(
        config,
        views=dataclasses.replace(config.views, strategy="listed", names=("identity",)),
        train=dataclasses.replace(config.train, accumulate=1),  # parts are of the views
    )


def random_batch(run: Run, side: int) -> Batch:
    """Random images in all views; the first row of each image is its own."""
    image, mask = random_images(run.config, side)
    count = len(run.view_names)
    return Batch(
        image=np.repeat(image[..., None], count, axis=0),
        mask=np.repeat(mask, count, axis=0),
        view=np.tile(np.arange(count, dtype=np.int32), len(image)),
        domain=np.zeros(len(image) * count, np.int32),
        labeled=np.ones(len(image) * count, bool),
        valid=np.ones(len(image) * count, bool),
    )


def random_images(config: Config, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of images [B, side, side] in [0, 1] and of masks in {0, 1}, always the same."""
    rng = np.random.default_rng(0)
    shape = (config.train.batch_size, side, side)
    image = rng.random(shape, np.float32)
    return image, (rng.random(shape, np.float32) < LABELED).astype(np.int32)


def our_programs(
    several: Run, single: Run, costs: dict[str, Cost], wanted: Collection[str]
) -> dict[str, Program]:
    """What is asked for, ready to be timed; made one after the other, so that little is held."""
    config = several.config
    size, crop = config.data.size, config.views.crop_side(config.data.size)
    makers: dict[str, Callable[[], Program]] = {
        "forward": lambda: forward_program(single, size),
        "train": lambda: train_program(single, costs["train"].call, crop),
        "train_views": lambda: train_program(several, costs["train_views"].call, crop),
        "predict": lambda: predict_program(several),
        "predict_all": lambda: predict_all_program(several, size),
    }
    return {name: make() for name, make in makers.items() if name in wanted}


def forward_program(run: Run, side: int) -> Program:
    """One pass of a batch of images."""

    def logits(variables, batch: Batch):
        branch = jnp.zeros_like(batch.view)
        return run.model.apply(variables, batch.image, branch, train=False)[0]

    return _on_devices(logits, run, random_batch(run, side))


def predict_all_program(run: Run, side: int) -> Program:
    """The probabilities of a batch of images in all branches."""

    def probability(variables, batch: Batch):
        return jax.nn.softmax(all_branches(run.model, variables, batch.image)[0])[..., 1]

    rows = jax.tree.map(lambda x: x[:: len(run.view_names)], random_batch(run, side))
    return _on_devices(probability, run, rows)


def _on_devices(function: Any, run: Run, batch: Batch) -> Program:
    mapped = jax.pmap(function, in_axes=(None, 0))
    variables = parallel.replicate(random_state(run).variables)
    placed = jax.pmap(lambda x: x)(parallel.shard(batch))
    return lambda: jax.block_until_ready(mapped(variables, placed))


def train_program(run: Run, call: Any, side: int) -> Program:
    """One step after the other of a compiled train step."""
    state = parallel.replicate(random_state(run))
    batch = jax.pmap(lambda x: x)(parallel.shard(random_batch(run, side)))

    def program() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(call(state, batch))

    return program


def predict_program(run: Run) -> Program:
    """Prediction as --mode=predict does it: what answers an image is chosen, and runs."""
    batch = run.config.train.batch_size
    evaluate = dataclasses.replace(run.config.evaluate, batch_size=batch)
    run = build(dataclasses.replace(run.config, evaluate=evaluate))
    images = phantoms(run.config)
    few = images._replace(labeled=images.labeled[:FITTED])
    fitted = run.method.fit(random_state(run), few, few)
    image = images.stack(slice(batch))[0]
    return lambda: run.method.answer(fitted, image)


def phantoms(config: Config) -> Images:
    """Drawn images of the config's size, in memory."""
    drawn = [
        phantom.phantom(0, phantom.DOMAINS[0], i, height=config.data.size, width=config.data.size)
        for i in range(max(PHANTOMS, config.train.batch_size))
    ]
    images = np.stack([example.image for example in drawn])
    return from_arrays(images, np.stack([example.mask for example in drawn]))


def input_rate(run: Run) -> Spread:
    """Images per second of the input pipeline alone, each in all views."""
    images, training_plan = phantoms(run.config), plan(run)
    runs = range(run.config.benchmark.runs)
    return Spread.of(input_pipeline.rate(images, training_plan, INPUT_S) for _ in runs)


def note_memory(
    run: Run, step: Cost, other: Yardstick | None, ours: Measurements, theirs: Measurements
) -> None:
    """Adds the measured memory of both train steps, and what PyTorch counts of its own."""
    side = run.config.views.crop_side(run.config.data.size)
    held = _watched(lambda: train_program(run, step.call, side), _peak_of_device)
    if held is not None:
        ours["measured_memory_gb"] = Spread.once(held / 1e9)
    if other is None:
        return
    image, mask = random_images(run.config, side)
    held = _watched(lambda: yardstick.train(other, image, mask), lambda: yardstick.peak(other))
    if held is not None:
        theirs["measured_memory_gb"] = Spread.once(held / 1e9)
    uncompiled_step = yardstick.train(yardstick.uncompiled(other), image, mask)
    flops = yardstick.matrix_flops(other, uncompiled_step)
    theirs["train_gflop"] = Spread.once(flops / 1e9)


def _watched(make: Callable[[], Program], peak: Callable[[], int | None]) -> int | None:
    """Bytes of a program and its arrays: the device's own peak, or what this process grows by."""

    def work() -> None:
        program = make()
        for _ in range(STEPS_MEASURED):
            program()

    work()  # what is loaded and compiled once is no memory of the step
    return peak() or timing.risen_bytes(work)


def _peak_of_device() -> int | None:
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def pytorch_programs(run: Run, other: Yardstick, wanted: Collection[str]) -> dict[str, Program]:
    """The same work on the same images in PyTorch."""
    size = run.config.data.size
    whole, _ = random_images(run.config, size)
    cut = random_images(run.config, run.config.views.crop_side(size))
    return yardstick.programs(
        other, wanted, whole, cut, len(run.view_names), run.model.num_branches
    )


def in_turns(ours: dict[str, Program], theirs: dict[str, Program]) -> dict[str, Program]:
    """Both, each of theirs behind ours of that name where there is one."""
    both: dict[str, Program] = {}
    for name in (*ours, *theirs):
        both |= {name: ours[name]} if name in ours else {}
        both |= {PYTORCH + name: theirs[name]} if name in theirs else {}
    return both


def _named(seconds: dict[str, Spread], prefix: str) -> dict[str, Spread]:
    """Those of one program, without its prefix."""
    names = {name for name in seconds if name.startswith(PYTORCH) == bool(prefix)}
    return {name.removeprefix(prefix): seconds[name] for name in seconds if name in names}


def large_product(dtype: str) -> tuple[float, Program]:
    """Operations of a large matrix product, and the product."""
    side = speeds.product_side()
    factor = jnp.full((side, side), 1 / side, jnp.dtype(dtype))
    product = jax.jit(jnp.matmul)
    return 2.0 * side**3, lambda: jax.block_until_ready(product(factor, factor))
