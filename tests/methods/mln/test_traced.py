"""The answer as one traceable function: exported for any number of images, and its gradient."""

import jax
import numpy as np
import pytest
import small_mln
from jax import export

from mln_flax.methods.mln import bank, branches

IMAGE, SIDE = small_mln.SHOWN, small_mln.SIDE


def exported(function):
    """A function of images, written out for any number of them and read back."""
    (count,) = export.symbolic_shape("count")
    images = jax.ShapeDtypeStruct((count, SIDE, SIDE), np.float32)
    stored = export.export(jax.jit(function), platforms=["cpu"])(images).serialize()
    return jax.jit(export.deserialize(stored).call)


def fitted(rule, norms):
    """What is kept, had source validation asked for so many norms; 0: for all of them."""
    kept = small_mln.fitted()
    total = len(kept.bank.mean)
    early = bank.Early(np.int64(norms or total), *(np.ones(total) for _ in range(3)))
    return kept._replace(early=kept.early | {rule: early})


@pytest.mark.parametrize(
    ("rule", "answer", "is_early"),
    [
        ("polarity", "branch", True),
        ("cosine+", "branch", True),  # by the first norm
        ("standardized", "branch", False),  # by all of them
        ("polarity", "weighted", True),
        ("polarity", "union", False),
        ("polarity", "mixed", True),
        ("cosine", "entropy", False),
    ],
)
def test_what_is_exported_answers_as_the_method(rule, answer, is_early):
    mln = small_mln.built(selection=rule, answer=answer)
    kept = fitted(rule, norms=int(is_early)) if rule in branches.BY_MOMENTS else small_mln.fitted()
    expected = mln.answer(kept, IMAGE)
    chosen = [small_mln.VIEWS.index(fact["branch"]) for fact in expected.facts]
    shares = np.array([list(fact["shares"].values()) for fact in expected.facts])
    assert expected.facts[0]["early"] == is_early
    call = exported(mln.traced(kept))
    for rows in (slice(0, 5), slice(2, 3)):  # several numbers of images
        out = jax.device_get(call(IMAGE[rows]))
        np.testing.assert_allclose(
            out["probability"], expected.maps["answer"][rows], rtol=0, atol=1e-5
        )
        assert out["branch"].dtype == np.int32
        np.testing.assert_array_equal(out["branch"], chosen[rows])
        np.testing.assert_allclose(out["shares"], shares[rows], atol=1e-5)
        assert out["distances"].shape == out["shares"].shape
    if rule == "polarity":
        assert len(set(chosen)) > 1


@pytest.mark.parametrize("answer", ["branch", "weighted", "union"])
def test_the_probability_of_given_shares(answer):
    """Whatever the image itself would choose."""
    mln, kept = small_mln.built(answer=answer), small_mln.fitted()
    full = mln.answer_all(kept, IMAGE)
    maps = np.stack([full.maps[name] for name in small_mln.VIEWS], axis=1)
    shares = np.eye(3, dtype=np.float32)[[2, 1, 0, 0, 1]]
    if answer == "weighted":
        shares = np.float32([[0.25, 0.15, 0.6]] * 5)
    expected = maps.max(axis=1) if answer == "union" else np.einsum("nk,nkhw->nhw", shares, maps)
    found = jax.jit(mln.probability)(kept, shares, IMAGE)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("answer", branches.ANSWERS)
def test_given_distances_choose_as_in_the_answer(answer):
    mln, kept = small_mln.built(answer=answer, mixing="polarity"), small_mln.fitted()
    common = np.float32([[3, 1, 9], [0, 2, 1], [5, 5.5, 1], [2, 2, 2], [9, 1, 8]])
    expected = mln.answer(kept, IMAGE, common)
    out = jax.device_get(jax.jit(mln.traced(kept))(IMAGE, common))
    np.testing.assert_allclose(out["probability"], expected.maps["answer"], rtol=0, atol=1e-5)
    shares = [list(fact["shares"].values()) for fact in expected.facts]
    np.testing.assert_allclose(out["shares"], shares, atol=1e-5)
    assert [small_mln.VIEWS[b] for b in out["branch"]] == [f["branch"] for f in expected.facts]
