"""The adapters of the backends that hemspec ships. Each is a module; one process takes one framework."""
