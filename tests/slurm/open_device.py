"""What a run does to open its GPU, and no more: takes the arguments of `hpcnk`."""

from hpcnk.comm import place_on_host, world
from hpcnk.engine import make_engine
from hpcnk.kernels import parse

place, _ = place_on_host(world())
make_engine(parse("fc1"), backend="gpu", local_rank=place)
