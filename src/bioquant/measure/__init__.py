"""What a cell costs and where it was measured: memory, latency, throughput, energy, environment."""

from bioquant.measure.latency import throughput
from bioquant.measure.machine import device_name, environment

__all__ = ["device_name", "environment", "throughput"]
