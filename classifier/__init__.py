"""Train image classifiers from one YAML file, on PyTorch Lightning."""

__version__ = "0.1.0"
DISTRIBUTION = "lightning-classifier"  # on PyPI, where "classifier" is a stranger's program
