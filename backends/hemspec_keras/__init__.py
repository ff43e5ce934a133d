"""The Keras 3 classes of hemspec. Import them as ``hemspec.keras``."""
