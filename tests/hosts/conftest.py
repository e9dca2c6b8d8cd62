import pytest

from tests.hosts.network import TwoHosts, missing


@pytest.fixture(scope="session")
def cabled():
    """Two hosts, for all tests of this folder."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    hosts = TwoHosts()
    try:
        hosts.up()
        yield hosts
    finally:
        hosts.down()


@pytest.fixture
def hosts(cabled):
    """Two hosts that nothing runs on, joined by a cable."""
    cabled.join()
    yield cabled
    for process in cabled.processes():
        process.kill()
    assert not cabled.wait_empty(10)
