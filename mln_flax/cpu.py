"""What XLA for CPUs must be told before it begins."""

import os
from importlib import metadata

FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def prefer_eigen() -> None:
    """Asks XLA for CPUs to leave convolutions to Eigen and not to YNNPACK, if it has not begun.

    YNNPACK takes 1.0 to 1.7 times as long for those of a U-Net. An unknown flag ends a program, so
    only releases of jaxlib are asked that are known to have it; a user's own choice stands.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if FLAG not in flags and metadata.version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=-individual_convolution".strip()
