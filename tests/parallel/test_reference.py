"""CIFAR-10, whitened, a fully connected tangent kernel: predictions of an independent solve."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.folders import predictions, report
from tests.support.mpi import hpcnk

PROJECT = Path(__file__).resolve().parents[2]
REFERENCE = PROJECT / "tests" / "references" / "end_to_end_cifar10_fc3.npz"


@pytest.mark.parametrize("ranks", [1, 3])
def test_cifar10_fc3(ranks, tmp_path, data_folder):
    reference = np.load(REFERENCE)
    deck = PROJECT / "inputs" / "cifar10-fc3.yaml"
    environment = {"HPCNK_DATA": str(data_folder), "OMP_NUM_THREADS": "2" if ranks == 1 else "1"}
    ended = hpcnk(ranks, "run", deck, cwd=tmp_path, environment=environment, limit=250)
    assert ended.code == 0, ended.output
    found, target = predictions(tmp_path / "runs" / "cifar10-fc3")
    np.testing.assert_array_equal(target, reference["labels"])
    np.testing.assert_allclose(found, reference["predictions"], rtol=0, atol=1e-6)
    accuracies = [entry["accuracy"] for entry in report(tmp_path / "runs" / "cifar10-fc3")["test"]]
    assert accuracies == reference["accuracy"].tolist()
