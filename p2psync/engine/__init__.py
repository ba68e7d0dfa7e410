"""Where models run: a prompt becomes a video, a graph becomes a function. Nothing of the network half is here.

``load(path).run({name: array})`` runs any ONNX model; ``open_pipeline(directory).generate(prompt)`` runs an engine
directory. Importing this loads no runtime: libraries are loaded when a backend is first used.
"""

from p2psync.engine.backends import NAMES, Probe, probes
from p2psync.engine.choice import Candidate, Choice, candidates, choose
from p2psync.engine.description import Description, read_description
from p2psync.engine.generations import Generation
from p2psync.engine.model import Model, load
from p2psync.engine.pipeline import Hooks, Pipeline, open_pipeline
from p2psync.engine.plan import Plan, estimate
from p2psync.engine.pointers import Pointers, Target
from p2psync.engine.request import Request, Wish, settle
from p2psync.engine.running import Clip, Identity, Job, run
from p2psync.engine.serving import Serving

__all__ = [
    "NAMES",
    "Candidate",
    "Choice",
    "Clip",
    "Description",
    "Generation",
    "Hooks",
    "Identity",
    "Job",
    "Model",
    "Pipeline",
    "Plan",
    "Pointers",
    "Probe",
    "Request",
    "Serving",
    "Target",
    "Wish",
    "candidates",
    "choose",
    "estimate",
    "load",
    "open_pipeline",
    "probes",
    "read_description",
    "run",
    "settle",
]
