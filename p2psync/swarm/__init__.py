"""Who is asked for what: decisions as functions of facts and time. Pure."""

from p2psync.swarm.bucket import TokenBucket
from p2psync.swarm.picker import Fault, Picker

__all__ = ["Fault", "Picker", "TokenBucket"]
