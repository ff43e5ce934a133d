"""The TensorFlow backend of hemspec. Import it as ``hemspec.tensorflow``."""
