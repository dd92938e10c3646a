"""A first state with a trained model's weights instead of random ones, each accounted for."""

from typing import Any, NamedTuple

from mln_flax.config import Config
from mln_flax.engine import hashes, packed, stored, whole_model
from mln_flax.engine.build import Run, build
from mln_flax.models import transfer
from mln_flax.models.transfer import Report
from mln_flax.settings import differences, to_dict
from mln_flax.types import Record, UserError

ELSEWHERE = ("init_from", "pretrained")  # of the network's settings: they say nothing of its form


class Start(NamedTuple):
    """A state before the first step, and where it comes from."""

    state: Any
    lines: str = ""  # for who watches
    facts: Record | None = None  # for the workdir


def from_trained(run: Run, state: Any) -> Start:
    """The state with the parameters and running statistics of the model in `model.init_from`.

    What an optimizer keeps stays as it is before a first step.

    Args:
      run: what a config describes.
      state: of the run's form: a random one, or its shapes.

    Raises:
      UserError: there is no trained model, or it does not fit: another network or other sizes.
    """
    given = run.config.model.init_from
    flag, folder = f"--config.model.init_from={given}", packed.folder_of(given)
    if not folder.is_dir() and not packed.is_box(folder):
        raise UserError(
            f"{flag}: no such folder; allowed are {packed.BOX} (the weights in the box), the "
            "workdir of a trained run, and the folder of a packed model"
        )
    config, tree = stored.config_of(folder), stored.tree_of(folder)
    changed = _changed(config, run.config)
    if config.model.name != run.config.model.name:
        raise UserError(
            f"{flag}: is a {config.model.name}, and this network a {run.config.model.name}; "
            f"allowed is --config.model.name={config.model.name} with its sizes"
        )
    if "params" not in tree or not hasattr(state, "params"):
        raise UserError(
            f"{flag}: method.name={config.method.name} there or {run.config.method.name} here has "
            "no parameters of one network"
        )
    alike = _same_branches(config, run)
    params, of_params = transfer.transferred(state.params, tree["params"], alike)
    stats, of_stats = _statistics(state, tree, alike)
    if misfits := (*of_params.misfits, *of_stats.misfits):
        more = f" (and {len(misfits) - 1} more)" if len(misfits) > 1 else ""
        raise UserError(
            f"{flag}: {misfits[0]}{more}; allowed is a network of the same sizes"
            + (f", and what differs is {'; '.join(changed)}" if changed else "")
        )
    if not of_params.taken:
        raise UserError(f"{flag}: none of its parameters is one of this network")
    model = hashes.tree_hash(tree)
    lines = [f"{flag}: {packed.title(folder)}, model {model[:12]}"]
    lines += [transfer.describe(of_params, "parameters")]
    lines += [transfer.describe(of_stats, "running statistics")]
    if (whole := whole_model.read(folder)) and whole.spacing_mm:
        lines.append("its images had pixels of {:g} x {:g} mm".format(*whole.spacing_mm))
    lines += [f"its network had another setting: {line}" for line in changed]
    facts = {
        "init_from": packed.title(folder),
        "model": model,
        "parameters": of_params.to_dict(),
        "running_statistics": of_stats.to_dict(),
        "other_settings": changed,
    }
    return Start(state._replace(params=params, **stats), "\n".join(lines), facts)


def _statistics(state: Any, tree: Record, alike: bool) -> tuple[Record, Report]:
    """The running statistics as a field of the state; without one, where either has none."""
    own = getattr(state, "domain_stats", None)
    if not own or not tree.get("domain_stats"):
        return {}, Report()
    stats, report = transfer.transferred(own, tree["domain_stats"], alike, all_per_branch=True)
    return {"domain_stats": stats}, report


def _changed(trained: Config, config: Config) -> list[str]:
    """Lines such as `norm: sample -> batch` for settings of the network that differ."""
    lines = differences(to_dict(trained.model), to_dict(config.model), "model.")
    passed = tuple(f"model.{name}:" for name in ELSEWHERE)
    return [line for line in lines if not line.startswith(passed)]


def _same_branches(trained: Config, run: Run) -> bool:
    """Whether both networks have the same branches, each of the same views."""
    before = build(trained)
    maps = [getattr(r.config.method, "branch_map", None) for r in (before, run)]
    counts = [r.model.num_branches for r in (before, run)]
    names = [r.view_names for r in (before, run)]
    return maps[0] == maps[1] and counts[0] == counts[1] and names[0] == names[1]
