"""The training loop: steps, validation on the source, checkpoints, and a clean stop."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mln_flax import parallel
from mln_flax.data.core import DataSet
from mln_flax.engine import checkpoint, input_pipeline, optim
from mln_flax.engine.build import Run, plan
from mln_flax.engine.clock import Progress, Stopwatch
from mln_flax.engine.input_pipeline import Images
from mln_flax.engine.stop import Stopped, StopSignal
from mln_flax.engine.workdir import MODEL, read_log, writers
from mln_flax.methods.core import TrainState
from mln_flax.methods.mln import answer, bank
from mln_flax.metrics import decision
from mln_flax.metrics.decision import OperatingPoint
from mln_flax.models import convert
from mln_flax.results import records
from mln_flax.types import UserError
from mln_flax.views.intensity import make_view


def random_state(run: Run) -> TrainState:
    """A state of the run's form with parameters drawn from the run's seed."""
    image = jnp.zeros(_image_shape(run))
    return jax.jit(run.method.init)(jax.random.key(run.config.train.seed), image)


def initial_state(run: Run) -> TrainState:
    """The state before the first step: random, or with a PyTorch checkpoint's parameters."""
    state = random_state(run)
    if run.config.model.pretrained:
        params, report = pretrained(run)
        print(convert.describe(report))
        state = state._replace(params=params)
    return state


def pretrained(run: Run) -> tuple[Any, convert.Report]:
    """A PyTorch checkpoint's parameters, and what became of each of them.

    Raises:
      UserError: the file cannot be read, or does not fit the network.
    """
    weights = convert.read_state_dict(run.config.model.pretrained)
    return convert.swin_unet_params(weights, run.model, _image_shape(run))


def _image_shape(run: Run) -> tuple[int, int, int, int]:
    side = run.config.views.crop_side(run.config.data.size)
    return 1, side, side, 1


def train(run: Run, data: DataSet, workdir: Path, stop: StopSignal | None = None) -> Path:
    """Trains to the last step and writes the model; returns its folder.

    Goes on from the newest checkpoint of the workdir, exactly as if it had never stopped.

    Raises:
      Stopped: a signal came; the state is saved.
      UserError: the loss is not finite, or the hosts cannot share a batch equally.
    """
    config, stop = run.config.train, stop or StopSignal()
    source = run.config.data.source
    cache_gb = run.config.data.cache_gb
    parts = {
        name: input_pipeline.images_of(data.part(source, name), cache_gb)
        for name in ("train", "validation")
    }
    log = workdir / "train.jsonl"
    forward = bank.forward(run)

    with checkpoint.manager(workdir) as checkpoints, stop.watched(), writers(workdir) as write:
        state = initial_state(run)
        restored = checkpoint.restore(checkpoints, state)
        if restored is not None:
            state = restored
            print(f"training: going on from step {int(state.step)}")
        state = parallel.replicate(state)
        first = int(state.step)
        if parallel.is_main_process():
            records.write(log, (r for r in read_log(log) if r["step"] <= first))

        update = parallel.parallel_update(run.method.update)
        learning_rate = optim.schedule(run.config.optim, config.steps)
        batches = input_pipeline.train_batches(
            parts["train"], plan(run), first, config.steps, parallel.host_share()
        )
        alone = input_pipeline.rate(parts["train"], plan(run)) if first < config.steps else 0.0
        print(f"input alone: {alone:.0f} images/s, {len(run.view_names)} views each", flush=True)
        clock = Stopwatch(batches)
        measured: list[Any] = []  # on the device; looked at only when a line is written
        progress, saved = Progress(time.monotonic(), first), first
        for step, batch in enumerate(clock, start=first + 1):
            state, new = update(state, parallel.shard(batch))
            measured.append(new)
            if step == first + 1:  # compiled by now: time what follows
                jax.block_until_ready(state.step)
                progress = Progress(time.monotonic(), step)
                clock.stop()
                clock.reset()
            last = step == config.steps
            if step % config.log_every_steps == 0 or last:
                values = jax.device_get(measured)  # all in one go, not step by step
                means = {name: float(np.mean([value[name] for value in values])) for name in new}
                clock.stop()  # after the means, which wait for the device
                row = {
                    "step": step,
                    **means,
                    "learning_rate": float(learning_rate(step - 1)),
                    **clock.rates(config.batch_size),
                    "input_alone_images_per_s": alone,
                }
                measured = []
                clock.reset()
                write(row)
                speed = (
                    f"  {row['images_per_s']:.1f} images/s, {row['input_wait']:.0%} of it waiting "
                    "for input"
                    if row["images_per_s"]
                    else ""
                )
                print(
                    f"{progress.line(step, config.steps)}  loss {row['loss']:.3f}  "
                    f"soft Dice {row['dice']:.3f}{speed}",
                    flush=True,
                )
                _check_finite(row)
            if step % config.evaluate_every_steps == 0 or last:
                jax.block_until_ready(state.step)
                clock.stop()
                scores, _ = validate(run, forward, state.variables, parts["validation"])
                write({"step": step, **scores})
                print(f"step {step}: source validation DSC {scores['validation_dsc']:.3f}")
                checkpoint.save(checkpoints, step, state, scores["validation_dsc"])
                saved = step
            if stop.agreed():
                if saved != step:
                    checkpoint.save(checkpoints, step, state, None)
                raise Stopped(
                    f"stopped by {stop.name} after step {step}; the state is saved, "
                    "the same command goes on from here"
                )
        return finish(run, checkpoints, state, parts, forward, workdir)


def finish(run, checkpoints, state, parts: dict[str, Images], forward, workdir: Path) -> Path:
    """Takes the best checkpoint, makes its statistics exact, and writes the model.

    Statistics that the network's norms are made of stay as they were when it was validated. With
    the model goes what every rule is worth, measured on source validation.
    """
    best = checkpoints.best_step()
    variables = checkpoint.restore(checkpoints, jax.eval_shape(lambda: state), best).variables
    print(f"training: done; best source validation at step {best}; exact statistics ...")
    point = logged_point(workdir / "train.jsonl", best)
    if point is None:
        point = validate(run, forward, variables, parts["validation"])[1]
    trained = bank.collect(run, variables, parts["train"], forward, point)
    trained = answer.measure(run, trained, parts["validation"])
    checkpoint.save_tree(workdir / MODEL, bank.to_tree(trained))
    return workdir / MODEL


def validate(
    run: Run, forward: Any, variables: dict[str, Any], images: Images
) -> tuple[dict[str, Any], OperatingPoint]:
    """Mean DSC over the source's validation images, each view in its own branch.

    It is measured at the operating point that suits these images best, which comes with it.
    """
    scores_on_grid: list[list[float]] = []
    for name, branch in zip(run.view_names, run.branch_of_view, strict=True):
        view = make_view(name).numpy
        for rows, count in input_pipeline.chunks(images.total, run.config.evaluate.batch_size):
            image, mask = images.stack(rows)
            indices = np.full(count, branch, np.int32)
            probability, _ = forward(variables, view(image)[..., None], indices)
            pairs = zip(probability, mask.astype(bool), strict=True)
            scores_on_grid += [decision.dsc_on_grid(p, m) for p, m in pairs]
    point, dsc = decision.best(np.array(scores_on_grid))
    per_view = dsc.reshape(len(run.view_names), -1).mean(axis=1)
    scores = {
        "validation_dsc": float(dsc.mean()),
        "validation_dsc_per_view": dict(zip(run.view_names, per_view.tolist(), strict=True)),
        "threshold": point.threshold,
        "min_pixels": point.min_pixels,
    }
    return scores, point


def logged_point(log: Path, step: int) -> OperatingPoint | None:
    """The operating point that the validation at a step found; None where no line says it."""
    for row in read_log(log):
        if row["step"] == step and "threshold" in row:
            return OperatingPoint(row["threshold"], row["min_pixels"])
    return None


def _check_finite(row: dict[str, Any]) -> None:
    if not np.isfinite(row["loss"]):
        raise UserError(
            f"the loss is {row['loss']} at step {row['step']}; a smaller "
            "--config.optim.learning_rate may help"
        )
