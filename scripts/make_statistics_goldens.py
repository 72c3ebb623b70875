#!/usr/bin/env python3
"""Writes tests/statistics/goldens.json: small random cohorts with the
statistics that scikit-learn, SciPy and statsmodels give for them. DeLong's method
is in none of them: it is coded here from its definition, over all pairs.

    python3 -m venv /tmp/statistics
    /tmp/statistics/bin/pip install scikit-learn==1.9.1 scipy==1.17.1 statsmodels==0.15.0 numpy==2.4.6
    /tmp/statistics/bin/python scripts/make_statistics_goldens.py
"""

import json
import warnings
from pathlib import Path

import numpy as np
import scipy
import sklearn
import statsmodels
import statsmodels.api as sm
from scipy import optimize, stats
from sklearn import metrics
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

warnings.simplefilter("ignore")
OUT = Path(__file__).parent.parent / "tests" / "statistics" / "goldens.json"


def psi(case, control):
    return 1.0 if case > control else 0.5 if case == control else 0.0


def components(scores, truth):
    cases = [s for s, t in zip(scores, truth) if t]
    controls = [s for s, t in zip(scores, truth) if not t]
    matrix = np.array([[psi(x, y) for y in controls] for x in cases])
    return matrix.mean(), matrix.mean(axis=1), matrix.mean(axis=0)


def delong(first, second, truth):
    """AUCs, variances, and the two-sided p of their difference."""
    (a, a10, a01), (b, b10, b01) = components(first, truth), components(second, truth)
    s10, s01 = np.cov(a10, b10), np.cov(a01, b01)
    s = s10 / len(a10) + s01 / len(a01)
    error = np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    return {
        "aucs": [a, b],
        "variances": [s[0, 0], s[1, 1]],
        "standard_error": error,
        "p": 2 * stats.norm.sf(abs(a - b) / error),
    }


def logit(p):
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))


def bins_of(p, truth, count):
    order = np.lexsort((truth, p))
    groups = np.array_split(order, count)
    return [[len(g), p[g].mean(), truth[g].mean()] for g in groups]


def bootstrap(rng, scores, truth, draws=20000):
    cases, controls = np.flatnonzero(truth), np.flatnonzero(~truth)
    values = []
    for _ in range(draws):
        sample = np.r_[rng.choice(cases, len(cases)), rng.choice(controls, len(controls))]
        x, y = scores[sample][: len(cases)], scores[sample][len(cases):]
        values.append((np.sign(x[:, None] - y[None, :]) + 1).mean() / 2)
    return list(np.quantile(values, [0.025, 0.975]))


def case(seed, patients, digits):
    rng = np.random.default_rng(seed)
    truth = rng.random(patients) < 0.45
    signal = truth * 1.1 + rng.normal(0, 1, patients)
    first = np.round(1 / (1 + np.exp(-(1.7 * signal - 0.8))), digits)
    second = np.round(1 / (1 + np.exp(-(0.5 * signal + rng.normal(0, 0.6, patients)))), digits)
    said, other = first > 0.5, second > 0.5
    tn, fp, fn, tp = metrics.confusion_matrix(truth, said).ravel()
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(truth, said, average="macro")
    right, right2 = said == truth, other == truth
    table = [[int((right & right2).sum()), int((right & ~right2).sum())],
             [int((~right & right2).sum()), int((~right & ~right2).sum())]]
    x = logit(first)
    fit = sm.Logit(truth.astype(float), sm.add_constant(x)).fit(disp=0, tol=1e-13, maxiter=200)
    large = sm.GLM(truth.astype(float), np.ones(patients), family=sm.families.Binomial(),
                   offset=x).fit(tol=1e-13)
    nll = lambda log_t: metrics.log_loss(truth, 1 / (1 + np.exp(-x / np.exp(log_t))))
    temperature = np.exp(optimize.minimize_scalar(nll, bounds=(-4, 4), method="bounded",
                                                  options={"xatol": 1e-10}).x)
    fpr, tpr, _ = metrics.roc_curve(truth, first, drop_intermediate=False)
    bins = bins_of(first, truth, 5)
    benefit = []
    for threshold in [0.1, 0.25, 0.5, 0.75]:
        act = first > threshold
        odds = threshold / (1 - threshold)
        benefit.append([threshold, ((act & truth).sum() - (act & ~truth).sum() * odds) / patients])
    hits = int(right.sum())
    return {
        "truth": truth.tolist(), "first": first.tolist(), "second": second.tolist(),
        "auc": metrics.roc_auc_score(truth, first),
        "roc": [list(map(float, pair)) for pair in zip(fpr, tpr)],
        "youden": float((tpr - fpr).max()),
        "delong": delong(first, second, truth),
        "bootstrap": bootstrap(rng, first, truth),
        "confusion": {"true_positive": int(tp), "false_positive": int(fp),
                      "true_negative": int(tn), "false_negative": int(fn)},
        "accuracy": metrics.accuracy_score(truth, said),
        "macro": [precision, recall, f1],
        "sensitivity": metrics.recall_score(truth, said),
        "specificity": metrics.recall_score(~truth, ~said),
        "wilson": proportion_confint(hits, patients, method="wilson"),
        "clopper_pearson": proportion_confint(hits, patients, method="beta"),
        "mcnemar": [table[0][1], table[1][0], mcnemar(table, exact=True).pvalue],
        "brier": metrics.brier_score_loss(truth, first),
        "bins": bins,
        "ece": sum(n * abs(p - o) for n, p, o in bins) / patients,
        "slope": fit.params[1], "intercept": fit.params[0], "in_the_large": large.params[0],
        "temperature": temperature,
        "net_benefit": benefit,
    }


def plain(value):
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


OUT.parent.mkdir(parents=True, exist_ok=True)
goldens = {
    "made_with": {"scikit-learn": sklearn.__version__, "scipy": scipy.__version__,
                  "statsmodels": statsmodels.__version__, "numpy": np.__version__},
    # The second has many ties; the last is as small as the paper's test set.
    "cases": [case(1, 60, 6), case(2, 120, 1), case(3, 17, 3), case(4, 250, 2)],
    # Zero and all hits are where intervals go wrong.
    "proportions": [[k, n, *proportion_confint(k, n, method="wilson"),
                     *proportion_confint(k, n, method="beta")]
                    for k, n in [(0, 8), (8, 8), (13, 17), (1, 200)]],
}
OUT.write_text(json.dumps(plain(goldens), indent=1) + "\n")
