"""DBSCAN over points in the plane (Ester et al., KDD 1996), without a matrix of all distances."""

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

_PAIRS = 2_000_000  # of near points held at once


def groups(points: np.ndarray, radius: float, min_count: int) -> np.ndarray:
    """The number of each point's group, -1 for none: int [n], in the order of first cores.

    A point is a core if at least `min_count` points, itself included, are within the radius; cores
    within the radius of each other are one group; what is no core joins its nearest core within
    the radius.

    Args:
      points: [n, 2].
      radius: in the same unit.
      min_count: 1 or more.
    """
    answer = np.full(len(points), -1)
    if len(points) < min_count:
        return answer
    near = cKDTree(points).query_ball_point(points, radius, return_length=True)
    is_core = near >= min_count
    if not is_core.any():
        return answer
    cores = points[is_core]
    of_cores = _within_reach(cores, near[is_core], radius)
    answer[is_core] = of_cores
    distance, nearest = cKDTree(cores).query(points[~is_core])
    answer[~is_core] = np.where(distance <= radius, of_cores[nearest], -1)
    return answer


def components(count: int, edges: np.ndarray) -> np.ndarray:
    """The number of each node's connected component: int [count], in the order of first nodes.

    Args:
      count: of nodes.
      edges: int [m, 2].
    """
    graph = sparse.coo_array((np.ones(len(edges), bool), tuple(edges.T)), shape=(count, count))
    return csgraph.connected_components(graph, directed=False)[1]


def _within_reach(points: np.ndarray, near: np.ndarray, radius: float) -> np.ndarray:
    """The components of points that are linked where they are within the radius of each other.

    Args:
      points: [n, 2].
      near: [n], an upper limit of how many of them are near each.
      radius: of being near.
    """
    tree = cKDTree(points)
    answer = np.arange(len(points))
    part = np.cumsum(near) // _PAIRS
    for i in np.unique(part):
        chosen = np.flatnonzero(part == i)
        pairs = cKDTree(points[chosen]).sparse_distance_matrix(tree, radius, output_type="ndarray")
        edges = np.stack([answer[chosen[pairs["i"]]], answer[pairs["j"]]], axis=1)
        answer = components(len(points), edges)[answer]
    return answer
