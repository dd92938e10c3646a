"""The training loop: steps, validation on the source, checkpoints, and a clean stop."""

import itertools
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mln_flax import files, parallel
from mln_flax.data.core import DataSet
from mln_flax.data.images import Images, images_of
from mln_flax.engine import checkpoint, input_pipeline, optim
from mln_flax.engine.build import Run, plan, update_of
from mln_flax.engine.clock import Progress, Stopwatch
from mln_flax.engine.states import random_state, start
from mln_flax.engine.stop import Stopped, StopSignal
from mln_flax.engine.workdir import LOG, MODEL, START, read_log, writers
from mln_flax.methods.core import SCORE
from mln_flax.results import records
from mln_flax.types import Record, UserError


def train(run: Run, data: DataSet, workdir: Path, stop: StopSignal | None = None) -> Path:
    """Trains to the last step and writes the model; returns its folder.

    Goes on from the newest checkpoint of the workdir, exactly as if it had never stopped.

    Raises:
      Stopped: a signal came; the state is saved.
      UserError: a scalar of a step is not finite, or the hosts cannot share a batch equally.
    """
    config, stop = run.config.train, stop or StopSignal()
    on_device = run.config.views.on_device
    training, validation, *unlabeled = training_images(run, data)
    log = workdir / LOG

    with checkpoint.manager(workdir) as checkpoints, stop.watched(), writers(workdir) as write:
        state = checkpoint.restore(checkpoints, jax.eval_shape(partial(random_state, run)))
        if state is None:
            state = begun(run, workdir)
        else:
            print(f"training: going on from step {int(state.step)}")
        state = parallel.replicate(state)
        first = int(state.step)
        if parallel.is_main_process():
            records.write(log, (r for r in read_log(log) if r["step"] <= first))

        update = parallel.parallel_update(update_of(run))
        learning_rate = optim.schedule(run.config.optim, config.steps)
        pipeline = input_pipeline.train_batches(
            training, plan(run), first, config.steps, parallel.host_share(), unlabeled=unlabeled
        )
        alone = input_pipeline.rate(training, plan(run)) if first < config.steps else 0.0
        views = "without views" if on_device else f"{len(run.view_names)} views each"
        print(f"input alone: {alone:.0f} images/s, {views}", flush=True)
        clock = Stopwatch()
        # No further: what tf.data clears away at its end can take seconds, and is no waiting.
        asked = itertools.islice(pipeline, config.steps - first)
        batches = clock.of_steps(parallel.sent(clock.of_input(asked)))
        measured: list[Record] = []  # on the device; looked at only when a line is written
        progress, saved = Progress(time.monotonic(), first), first
        for step, batch in enumerate(batches, start=first + 1):
            state, scalars = update(state, batch)
            measured.append(scalars)
            if step == first + 1:  # compiled by now: time what follows
                jax.block_until_ready(state.step)
                progress = Progress(time.monotonic(), step)
                clock.stop()
                clock.reset()
            last = step == config.steps
            if step % config.log_every_steps == 0 or last:
                values = jax.device_get(measured)  # all in one go, not step by step
                means = {name: float(np.mean([v[name] for v in values])) for name in scalars}
                clock.stop()  # after the means, which wait for the device
                rates = clock.rates(config.batch_size)
                write(
                    {
                        "step": step,
                        **means,
                        "learning_rate": float(learning_rate(step - 1)),
                        **rates,
                        "input_alone_images_per_s": alone,
                    }
                )
                measured = []
                clock.reset()
                print(f"{progress.line(step, config.steps)}{shown(means, rates)}", flush=True)
                check_finite(means, step)
            if step % config.evaluate_every_steps == 0 or last:
                jax.block_until_ready(state.step)
                clock.stop()
                scores = run.method.validate(state, validation)
                write({"step": step, **scores})
                print(f"step {step}: source validation DSC {scores[SCORE]:.3f}")
                checkpoint.save(checkpoints, step, state, scores[SCORE])
                saved = step
            if stop.agreed():
                check_finite(jax.device_get(scalars), step)  # what is saved can be gone on from
                if saved != step:
                    checkpoint.save(checkpoints, step, state, None)
                raise Stopped(
                    f"stopped by {stop.name} after step {step}; the state is saved, "
                    "the same command goes on from here"
                )
        return finish(run, checkpoints, state, training, validation, workdir)


def begun(run: Run, workdir: Path) -> Any:
    """The state before the first step; what it starts from is said, and noted in the workdir."""
    state, lines, facts = start(run)
    if lines:
        print(lines, flush=True)
    if facts and parallel.is_main_process():
        files.write_json(workdir / START, facts)
    return state


def finish(
    run: Run, checkpoints: Any, state: Any, training: Images, validation: Images, workdir: Path
) -> Path:
    """Takes the best checkpoint, fits what answers with it, and writes the model."""
    best = checkpoints.best_step()
    state = checkpoint.restore(checkpoints, jax.eval_shape(lambda: state), best)
    print(f"training: done; best source validation at step {best}; what answers is fitted ...")
    fitted = run.method.fit(state, training, validation)
    checkpoint.save_tree(workdir / MODEL, run.kind.to_tree(fitted))
    return workdir / MODEL


def training_images(run: Run, data: DataSet) -> list[Images]:
    """The source's training and validation images, then those of targets without labels."""
    config = run.config.data
    parts = [(config.source, "train"), (config.source, "validation")]
    parts += [(domain, "train") for domain in config.unlabeled]
    return [images_of(data.part(*part), config.cache_gb) for part in parts]


def shown(means: Record, rates: Record) -> str:
    """`  loss 0.512  dice 0.571  24.1 images/s, 3% of it waiting for input`."""
    by_loss = sorted(means, key=lambda name: "loss" not in name)  # the losses first
    parts = [f"{name} {means[name]:.3f}" for name in by_loss]
    if rates["images_per_s"]:
        parts.append(
            f"{rates['images_per_s']:.1f} images/s, {rates['input_wait']:.0%} of it waiting for "
            "input"
        )
    return "".join(f"  {part}" for part in parts)


def check_finite(scalars: Record, step: int) -> None:
    """Raises UserError for a scalar of a step that is no finite number."""
    for name, value in scalars.items():
        if not np.isfinite(value):
            raise UserError(
                f"the {name} is {float(value)} at step {step}; a smaller "
                "--config.optim.learning_rate may help"
            )
