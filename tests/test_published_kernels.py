"""The published scripts' first experiment: rows against brute force, stopped and gone on."""

import attrs
import numpy as np
import pytest

import ntklc_helpers as nh
from ntklc_helpers.experiments import published_kernels
from ntklc_helpers.experiments.__main__ import RECORDS, main
from ntklc_helpers.experiments.published_kernels import (
    PRESETS,
    REFERENCES,
    PublishedKernels,
    errors_by_draws,
    monte_carlo_law,
    published_sample,
)
from ntklc_helpers.experiments.records import find_record, read_record
from ntklc_helpers.experiments.runs import preset_of

SMALL = attrs.evolve(PRESETS["smoke"], draws_ntk=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return SMALL.run(folder), folder


def mixture(kernel, p):
    means = np.zeros((2, p))
    if kernel == "CK":
        means[0, 0] = means[1, 8] = 8
        return nh.GaussianMixture(means, [np.eye(p), (1 + 8 / np.sqrt(p)) * np.eye(p)])
    means[:, :2] = [[2, -2], [-2, 2]]
    return nh.GaussianMixture(means, [np.eye(p)] * 2)


@pytest.mark.parametrize("kernel", ["CK", "NTK"])
def test_the_sample_is_of_the_mixture_and_so_are_its_statistics(kernel):
    X, labels, stats = published_sample(kernel, 4000, 30, seed=1)
    one = mixture(kernel, 30)
    for a in range(2):
        assert X[labels == a].mean(axis=0) == pytest.approx(one.means[a] / 30**0.5, abs=0.025)
        C = np.cov(X[labels == a].T) * 30
        assert pytest.approx(one.covariances[a], abs=0.35) == C
    noise = X - one.means[labels] / 30**0.5
    expected = one.statistics(nh.data.Sample(X, labels, noise))
    for name in ("t", "T", "psi", "J", "squares"):
        assert getattr(stats, name) == pytest.approx(getattr(expected, name)), name
    assert stats.tau0 == pytest.approx(one.tau0)


def references(kernel, M):
    """By name, what a mean kernel M is compared with; and the exact kernel, by hand."""
    p = SMALL.p_ck if kernel == "CK" else SMALL.p_ntk
    X, _, stats = published_sample(kernel, SMALL.n, p)
    layers, ntk = [("relu", "sin")[kernel == "NTK"]] * 3, kernel == "NTK"
    exact = nh.limit_kernels(X, layers, tau0=stats.tau0)[ntk]
    last, make = nh.propagate(layers, stats.tau0)[-1], (nh.ck_equivalent, nh.ntk_equivalent)[ntk]
    known = {"exact": exact, "equivalent": make(X, stats, last).to_dense()}
    known["finite"] = make(X, stats, last, "finite").to_dense()
    diagonal = -(last.beta[2] if ntk else last.alpha[2]) * stats.tau0**4
    if ntk:
        diagonal += nh.theory.published_kappa_squared(layers, stats.tau0) - last.kappa**2
    known["published"] = known["equivalent"] + diagonal * np.eye(SMALL.n)
    parts = [X @ X.T, np.eye(SMALL.n), np.ones((SMALL.n, SMALL.n))]
    for name, used in (("two", parts[:2]), ("three", parts)):
        columns = np.stack([part.ravel() for part in used], axis=1)
        fitted = np.linalg.lstsq(columns, M.ravel(), rcond=None)[0]
        known[name] = (columns @ fitted).reshape(M.shape)
    return known, X, stats.tau0, layers


@pytest.mark.parametrize("kernel", ["CK", "NTK"])
def test_every_error_is_that_of_all_eigenvalues(kernel, whole):
    count = SMALL.draws_ck if kernel == "CK" else SMALL.draws_ntk
    _, X, tau0, layers = references(kernel, np.eye(SMALL.n))
    nets = (
        nh.RandomMLP(X.shape[1], SMALL.widths, layers, tau0=tau0, seed=1 + k, device="cpu")
        for k in range(count)
    )
    M = (nh.empirical_ck, nh.empirical_ntk)[kernel == "NTK"](nets, X)
    known, *_ = references(kernel, M)
    norm = np.linalg.norm(known["exact"], 2)
    table = whole[0].table
    rows = table[(table.kernel == kernel) & (table.draws == count)].set_index("against").error
    assert [*rows.index] == [*known] == [*REFERENCES]
    for name, reference in known.items():
        assert rows[name] == pytest.approx(np.linalg.norm(M - reference, 2) / norm, rel=1e-3), name
    about = whole[0].findings["kernels"][kernel]
    known, *_ = references(kernel, known["exact"])
    for name, reference in known.items():
        error = np.linalg.norm(known["exact"] - reference, 2) / norm
        assert about["errors"][name] == pytest.approx(error, rel=1e-3, abs=1e-9), name
    top = np.linalg.eigvalsh(M)[::-1][:3]
    assert about["means"][-1]["leading"] == pytest.approx(top, rel=1e-4)


def test_there_are_disjoint_means_of_every_size(whole):
    found = whole[0].table.query("kernel == 'CK' and against == 'exact'").groupby("draws")
    assert found.replicate.nunique().to_dict() == {1: 4, 2: 4, 4: 4, 8: 2, 16: 1}
    assert (found.error.mean().diff().dropna() < 0).all()


def test_the_law_of_draws_is_found_again(whole):
    made, N = whole[0], np.array([1, 2, 4, 8, 16])
    known = made.table.query("kernel == 'CK'").index
    table = made.table.copy()
    # Below N = 4 there are fewer features than samples, and anything may stand there.
    law = np.hypot(3 / np.sqrt(table.draws[known]), 0.2)
    table.loc[known, "error"] = np.where(table.draws[known] < 4, 9.0, law)
    record = attrs.evolve(made, table=table)
    assert monte_carlo_law(record, "CK") == pytest.approx((3, 0.2))
    found = errors_by_draws(record, "CK")
    assert found.index.tolist() == N.tolist() and [*found["mean"]] == [*REFERENCES]
    assert found["mean", "exact"].iloc[-1] == pytest.approx(np.hypot(3 / 4, 0.2))
    one = made.table.query("kernel == 'CK' and against == 'exact' and draws == 2").error
    found = errors_by_draws(made, "CK").loc[2]
    assert found["sem", "exact"] == pytest.approx(one.std(ddof=1) / 2)
    assert found["mean", "exact"] == pytest.approx(one.mean())
    assert np.isnan(errors_by_draws(made, "CK")["sem", "exact"].iloc[-1])
    with pytest.raises(ValueError, match="kernel must be one of CK, NTK"):
        errors_by_draws(made, "ck")


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    # Within the second chain of the second kernel, and while the last means are taken.
    chain, merge = [stop_at(published_kernels, name, 6 if name == "_chain" else 2)
                    for name in ("_chain", "_merged")]  # fmt: skip
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            SMALL.run(tmp_path / "run")
    again = SMALL.run(tmp_path / "run")
    assert len(chain) == 2 * 4 + 1 and len(merge) == 3
    again.write(tmp_path / "again")
    whole[0].write(tmp_path / "whole")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert again.findings == whole[0].findings
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "CK.pt",
        "NTK.pt",
        "settings.json",
    }


def test_the_command_makes_it_and_it_comes_back(tmp_path, capsys):
    where = ["--output", str(tmp_path / "run"), "--results", str(tmp_path)]
    options = ["--preset", "smoke", "--draws-ck", "4", "--draws-ntk", "2", "--chains", "2"]
    assert main(["published_kernels", *options, *where]) == 0
    record = read_record(tmp_path / "published_kernels")
    assert record.settings["draws_ck"] == 4 and "mixed (CK)" in record.settings["source"]
    assert "equivalent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 7}, "n must be even"),
        ({"p_ck": 8}, "p_ck must be a whole number of at least 9"),
        ({"widths": (0,)}, "widths must be a whole number"),
        ({"draws_ck": 12}, "draws_ck must be a power of two, got 12"),
        ({"draws_ntk": 0}, "draws_ntk must be a whole number of at least 1"),
        ({"chains": 16}, "chains must be at most 4, the number of draws"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_settings_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        PublishedKernels(**options)


def test_the_record_is_of_the_published_sizes():
    assert RECORDS["published_kernels"] is PRESETS
    record = find_record("published_kernels")
    assert preset_of(record.settings, PRESETS) == "paper"
    settings = record.settings
    assert (settings["n"], settings["p_ck"], settings["p_ntk"]) == (8000, 4650, 4000)
    assert settings["widths"] == [2000, 2000, 1000]
    # A mean kernel without theory is further off than the equivalent is from the exact one.
    errors = errors_by_draws(record, "CK")["mean", "exact"]
    assert errors.iloc[-1] > record.findings["kernels"]["CK"]["errors"]["equivalent"] > 0.05
