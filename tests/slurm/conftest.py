import pytest

from tests.slurm.cluster import Cluster, absence


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A running Slurm of these tests' own."""
    why = absence()
    if why:
        pytest.skip(f"no throw-away Slurm here: {why}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
