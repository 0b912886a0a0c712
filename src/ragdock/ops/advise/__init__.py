"""What a container costs on this machine: the same work inside and beside one, in turns."""

from ragdock.ops.advise.measure import Measurement, Measurements, measure

__all__ = ["Measurement", "Measurements", "measure"]
