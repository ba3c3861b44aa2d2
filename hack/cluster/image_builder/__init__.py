"""The parts of `hack/cluster/images.py`."""
