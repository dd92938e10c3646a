"""Hashes of files, of texts, and of what a method keeps."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from mln_flax import files


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    with files.naming(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_hash(text: str) -> str:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def tree_hash(tree: Any) -> str:
    """The SHA-256 of nested dicts of arrays: of names, kinds, shapes and values."""
    digest = hashlib.sha256()

    def add(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name in sorted(node):
                add(node[name], f"{path}/{name}")
            return
        array = np.ascontiguousarray(node)
        digest.update(f"{path} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())

    add(tree, "")
    return digest.hexdigest()
