"""The learning-rate schedule and the optimizer that the settings describe."""

import optax

from mln_flax.config import OptimConfig
from mln_flax.registry import nearest
from mln_flax.types import UserError


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """The learning rate at each step: linear warm-up, then a cosine down to zero."""
    warmup = min(config.warmup_steps, max(steps // 2, 1))
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, 2))


def optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Adam with the L2 decay added to the gradient, as PyTorch's Adam does, or AdamW.

    With `config.flat` it sees parameters and gradients as one vector, and its state is of that
    form. The operations on a number are the same; what the compiler joins of them, and the order
    in which the norm of `config.clip_norm` is summed, may change last bits.

    Raises:
      UserError: the name is unknown.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    adam = optax.scale_by_adam(config.b1, config.b2)
    decay = optax.add_decayed_weights(config.weight_decay)
    chains = {"adam": (clip, decay, adam), "adamw": (clip, adam, decay)}
    if config.name not in chains:
        raise UserError(
            f"--config.optim.name: unknown optimizer {config.name!r}"
            f"{nearest(config.name, chains)}; known: {', '.join(chains)}"
        )
    rate = optax.scale_by_learning_rate(schedule(config, steps))
    whole = optax.chain(*chains[config.name], rate)
    return optax.flatten(whole) if config.flat else whole
