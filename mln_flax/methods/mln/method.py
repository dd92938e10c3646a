"""MLN-net as a method: its settings, the functions that it is made of, and what is kept of it."""

from functools import partial
from typing import Any

import numpy as np

from mln_flax.data.images import Images
from mln_flax.methods import validation
from mln_flax.methods.core import Ingredients, Kind, Method, TrainState
from mln_flax.methods.mln import (
    answer,
    bank,
    explain,
    further,
    matching,
    normaug,
    passes,
    study,
    traced,
    update,
    worth,
)
from mln_flax.methods.mln.settings import MlnSettings
from mln_flax.models import norm_kinds
from mln_flax.parallel import pad_rows
from mln_flax.types import Record
from mln_flax.views import intensity


def build(settings: MlnSettings, ingredients: Ingredients) -> Method:
    """MLN-net for a network with as many branches as the map of views says."""
    branch_of_view, branch_names = intensity.branch_map(ingredients.view_names, settings.branch_map)
    views = bank.ViewMap(ingredients.view_names, branch_of_view)
    model, chunk = ingredients.network(views.num_branches), ingredients.chunk
    trained, to_answer = model, _as_it_is
    if settings.normaug:  # auxiliary branches are trained and do not answer
        trained = ingredients.network(1 + len(views.names))
        to_answer = normaug.main_branch
    programs = passes.programs(
        model, settings, views, branch_names, ingredients.side, chunk, ingredients.devices
    )

    def validated(state: TrainState, images: Images):
        """Each view in its own branch."""
        variables = to_answer(state.variables)

        def probability(image: np.ndarray, view: int) -> np.ndarray:
            batch = pad_rows(image[..., None], chunk)
            branch = np.full(chunk, branch_of_view[view], np.int32)
            return programs.with_moments(variables, batch, branch)[0][: len(image)]

        return validation.of_views(probability, views.names, images, chunk)

    def validate(state: TrainState, images: Images) -> Record:
        return validated(state, images)[0]

    def fit(state: TrainState, training: Images, images: Images) -> bank.Fitted:
        point = validated(state, images)[1]
        fitted = bank.collect(
            views,
            to_answer(state.variables),
            training,
            programs.with_moments,
            point,
            chunk,
            keeps_running=getattr(model, "norm", "") in norm_kinds.FROM_STATISTICS,
        )
        fitted = fitted._replace(grays=matching.of_source(views, training, chunk))
        fitted = worth.measure(programs, fitted, images)
        print("\n".join(further.worth_lines(fitted.early)))
        return fitted

    return Method(
        model=trained,
        init=partial(update.init, trained, ingredients.optimizer),
        update=partial(
            update.update,
            trained,
            ingredients.optimizer,
            settings,
            branch_of_view,
            ingredients.seed,
            ingredients.accumulate,
        ),
        validate=validate,
        fit=fit,
        answer=partial(answer.answer, programs),
        answer_all=partial(answer.answer_all, programs),
        look=partial(answer.look, programs),
        level=settings.level,
        inverted=views.sides() if settings.selection == "polarity" else (),
        further=partial(further.further, programs),
        traced=partial(traced.traced, programs),
        probability=partial(traced.probability, programs),
        explain=partial(explain.explain, programs),
    )


def _as_it_is(variables: Any) -> Any:
    return variables


KIND = Kind(
    MlnSettings,
    build,
    bank.to_tree,
    bank.from_tree,
    study.STUDY,
    takes_parts=True,
)
