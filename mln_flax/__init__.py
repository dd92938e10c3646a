"""MLN-net in JAX/Flax: clustered microcalcifications on mammography machines never seen before."""
