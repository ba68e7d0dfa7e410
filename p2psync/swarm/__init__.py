"""Who is asked for what: decisions as functions of facts and time. Pure."""

from p2psync.swarm.bucket import TokenBucket
from p2psync.swarm.inventory import Inventory
from p2psync.swarm.messages import FIRST_TAG, Hello, Message, decode, encode, topic_of
from p2psync.swarm.parts import Meter, Part
from p2psync.swarm.planner import RAW, Choice, Plan, plan
from p2psync.swarm.requests import Ask
from p2psync.swarm.session import Session
from p2psync.swarm.sources import Fault

__all__ = [
    "FIRST_TAG",
    "RAW",
    "Ask",
    "Choice",
    "Fault",
    "Hello",
    "Inventory",
    "Message",
    "Meter",
    "Part",
    "Plan",
    "Session",
    "TokenBucket",
    "decode",
    "encode",
    "plan",
    "topic_of",
]
