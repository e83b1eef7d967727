"""TransportNet's figure 6 drawn small, its plain layers, and Sinkhorn's limits."""

import csv
import multiprocessing
import os

import pytest
import torch

from matchcut.matching import LongShortSinkhorn, LongSinkhorn
from matchcut.reproduce import transport_net


def rows_of(table):
    with table.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_plain_layers_are_what_ours_are_measured_against():
    appearance, motion = torch.rand(2, 5, 8, 12, dtype=torch.float64), torch.rand(2, 5, 8, 12, dtype=torch.float64)
    settings = {"epsilon": transport_net.EPSILON, "iterations": transport_net.ITERATIONS}
    pairs = (
        (transport_net.plain_sinkhorn, LongSinkhorn(groups=1, **settings)),
        (transport_net.plain_long_short_sinkhorn, LongShortSinkhorn(groups=transport_net.GROUPS, **settings)),
    )
    for plain, ours in pairs:
        for one, other in zip(plain(appearance, motion), ours(appearance, motion), strict=True):
            torch.testing.assert_close(one, other, atol=1e-8, rtol=0)


def test_figure_6_measures_every_layer(tmp_path, monkeypatch):
    names = ("full, plain", "factorised, matchcut")  # a process each
    few = {name: transport_net.IMPLEMENTATIONS[name] for name in names}
    monkeypatch.setattr(transport_net, "IMPLEMENTATIONS", few)
    said = []
    picture, table = transport_net.figure_6(tmp_path, say=said.append, sizes=((16, 4),))
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = rows_of(table)
    assert [row["layer"] for row in rows] == list(transport_net.IMPLEMENTATIONS) and len(said) == len(rows)
    assert all(float(row["seconds"]) > 0 for row in rows)


def test_sinkhorn_tends_to_the_permutation_and_to_doubly_stochastic(tmp_path, monkeypatch):
    monkeypatch.setattr(transport_net, "PROBLEMS", 5)
    monkeypatch.setattr(transport_net, "EPSILONS", (0.3, 0.1, 0.001))
    picture, table = transport_net.sinkhorn_limits(tmp_path, say=lambda line: None)
    assert picture.is_file()
    rows = rows_of(table)
    last = {float(row["epsilon"]): row for row in rows if row["agreement"]}
    assert float(last[0.001]["excess"]) < 0.01 and float(last[0.001]["agreement"]) > 0.99
    assert float(last[0.3]["excess"]) > 0.5
    residuals = [float(row["residual"]) for row in rows if row["epsilon"] == "0.100000000000"]
    assert residuals[-2] < 1e-9 < residuals[0]


def test_a_layer_that_cannot_be_measured_says_so(monkeypatch):
    monkeypatch.setattr(transport_net, "_measure", _dies)
    forked = multiprocessing.get_context("fork")  # it dies at once: nothing of what it inherits matters
    monkeypatch.setattr(transport_net.multiprocessing, "get_context", lambda how: forked)
    with pytest.raises(MemoryError, match="full, plain at 16x16x4 was stopped"):
        transport_net.measured("full, plain", (16, 4), 0)


def _dies(*_):
    os._exit(9)
