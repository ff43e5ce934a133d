"""The PyTorch backend of hemspec. Import it as ``hemspec.torch``."""
