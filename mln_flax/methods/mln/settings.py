"""The settings of MLN-net."""

from dataclasses import dataclass
from typing import Annotated

from mln_flax.config import AFTER_TRAINING, not_negative, one_of, positive
from mln_flax.methods.losses import LossSettings
from mln_flax.methods.mln.branches import ANSWERS, BY_PROBABILITIES, MIXINGS, SELECTIONS
from mln_flax.types import UserError
from mln_flax.views.intensity import BRANCH_MAPS


@dataclass(frozen=True)
class MlnSettings(LossSettings):
    """Which views share a branch, how branches are chosen, and how they answer."""

    name: Annotated[str, one_of("mln")] = "mln"
    # "grouped": upright views and inverted ones; "shared": one branch.
    branch_map: Annotated[str, one_of(*BRANCH_MAPS)] = "per_view"
    # Weight of the loss of auxiliary branches that disturb "shared" in training; 0: none.
    normaug: Annotated[float, not_negative] = 0.0
    # How branches are chosen: see `branches`.
    selection: Annotated[str, one_of(*SELECTIONS), AFTER_TRAINING] = "polarity"
    # The nearest branch alone; the branches' mean "weighted" by their probabilities, or one pass
    # with scales and shifts "mixed" by them (both polarity only); their mean by how sure each is,
    # "entropy"; or their "union".
    answer: Annotated[str, one_of(*ANSWERS), AFTER_TRAINING] = "branch"
    # "mixed": by the branches' probabilities, or those of the right polarity alike.
    mixing: Annotated[str, one_of(*MIXINGS), AFTER_TRAINING] = "probabilities"
    # "weighted" and "mixed": above 1 evens out the branches' probabilities.
    temperature: Annotated[float, positive] = 4.0
    # "entropy": nats of balanced entropy by which a weight falls to 1 / e.
    entropy_temperature: Annotated[float, positive] = 0.1
    # The image's grays are moved to those of the source; "branch" by polarity only.
    matching: Annotated[bool, AFTER_TRAINING] = False
    # What shares one choice.
    level: Annotated[str, one_of("image", "case", "domain"), AFTER_TRAINING] = "image"
    # Choose by the first norms where they suffice; false: by all of them.
    early: Annotated[bool, AFTER_TRAINING] = True

    def check(self) -> None:
        """Raises UserError for an answer that the rule or the level cannot give."""
        super().check()
        if self.normaug and self.branch_map != "shared":
            raise UserError(
                f"--config.method.normaug={self.normaug}: one main branch answers, so allowed is "
                f"method.branch_map=shared, not {self.branch_map}"
            )
        if self.answer in BY_PROBABILITIES and self.selection != "polarity":
            raise UserError(
                f"--config.method.answer={self.answer}: with selection={self.selection} there are "
                "no probabilities to weigh by; only polarity gives them"
            )
        if self.matching and (self.answer, self.selection) != ("branch", "polarity"):
            raise UserError(
                f"--config.method.matching=true: with answer={self.answer} and selection="
                f"{self.selection} there is nothing to match to; allowed are answer=branch and "
                "selection=polarity"
            )
        if self.matching and self.level != "image":
            raise UserError(
                f"--config.method.level={self.level}: with matching=true every image is matched "
                "by itself; allowed is image"
            )
        if self.answer != "branch" and self.level != "image":
            raise UserError(
                f"--config.method.level={self.level}: only answer=branch has one choice for "
                f"several images, not {self.answer}"
            )
