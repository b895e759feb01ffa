"""A loopback server that answers the real Weights & Biases client over HTTP and GraphQL.

It keeps everything that a client sends in memory, where a test can read it back: `runs`,
`artifacts`, `sweeps`, `views` and `requests`. Fields that a query selects and no resolver
provides come back as null, and operations that no resolver knows come back as GraphQL errors, as
from a server without those features. `python -m support.wandb_server` serves without a test.
"""

from support.wandb_server.artifacts import ServerArtifact
from support.wandb_server.records import API_KEY, ENTITY
from support.wandb_server.runs import ServerRun
from support.wandb_server.server import WandbServer
from support.wandb_server.sweeps import ServerSweep
from support.wandb_server.views import ServerView

__all__ = [
    "API_KEY",
    "ENTITY",
    "ServerArtifact",
    "ServerRun",
    "ServerSweep",
    "ServerView",
    "WandbServer",
]
