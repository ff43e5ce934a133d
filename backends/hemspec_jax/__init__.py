"""The JAX backend of hemspec. Import it as ``hemspec.jax``."""
