"""Dense float64 NumPy reference: the equations as printed, on n x n matrices, with no trick of the library.

Eigenvalues are those of K/n with K = H H^T, in descending order. A filter is a callable `f(lam, n)`, zero
outside the principal subspace. Labels are (n,) or (n, c); per-output results are 0-d or (c,) arrays.
"""

import itertools
from collections.abc import Callable

import numpy as np
from scipy.integrate import quad
from scipy.linalg import block_diag
from scipy.optimize import brentq
from scipy.special import erf

Filter = Callable[[np.ndarray, int], np.ndarray]
Blocks = tuple[np.ndarray, np.ndarray, np.ndarray]

NUMERICALLY_ZERO = 1e-12  # relative to the largest eigenvalue


def _f64(x: np.ndarray) -> np.ndarray:
    """Cast to float64, done to every input at entry."""
    return np.asarray(x, dtype=np.float64)


# Spectra and the principal subspace


def spectrum_of_kernel(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of K/n, descending (Xue et al. 2025, spectrum of the scaled kernel)."""
    kernel = _f64(kernel)
    lam, u = np.linalg.eigh((kernel + kernel.T) / (2 * len(kernel)))
    return np.maximum(lam[::-1], 0.0), u[:, ::-1]


def kernel_spectrum(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of H H^T / n, descending (Xue et al. 2025, spectrum of the scaled kernel)."""
    h = _f64(h)
    return spectrum_of_kernel(h @ h.T)


def kept(lam: np.ndarray, threshold: float = 0.0, rank: int | None = None) -> np.ndarray:
    """Mask of V: lam_j >= threshold lam_1 and j < rank (Xue et al. 2025, principal subspace)."""
    lam = _f64(lam)
    position = np.arange(len(lam))
    in_rank = position < (len(lam) if rank is None else rank)
    return (lam >= threshold * lam[0]) & in_rank & (lam > NUMERICALLY_ZERO * lam[0])


def gamma(h: np.ndarray, k: int) -> np.ndarray:
    """(1/n) sum_{j >= k} lam_j (Xue et al. 2025, kernel-wise isotropy, trace estimate of gamma)."""
    lam, _ = kernel_spectrum(h)
    return np.asarray(lam[k:].sum() / len(lam))


def threshold_rank(lam: np.ndarray, alpha: float) -> int:
    """Number of eigenvalues with lam_j >= alpha lam_1 (Xue et al. 2025, choice of V in the experiments)."""
    return int(kept(lam, threshold=alpha).sum())


def explained_variance_rank(lam: np.ndarray, share: float) -> int:
    """Smallest k with lam_1 + ... + lam_k >= share * trace (explained variance of principal components)."""
    lam = np.where(kept(lam), _f64(lam), 0.0)
    cumulative = np.concatenate([[0.0], np.cumsum(lam)])
    return int(np.argmax(cumulative >= share * cumulative[-1]))


def marchenko_pastur_median(beta: float) -> float:
    """Median of the Marchenko-Pastur law of ratio beta <= 1 (Gavish & Donoho 2014, mu_beta)."""
    low, high = 1 - np.sqrt(beta), 1 + np.sqrt(beta)  # edges of the singular values s = sqrt(x)

    def density(s: float) -> float:
        """Marchenko-Pastur density of the singular value s (Gavish & Donoho 2014)."""
        return np.sqrt(max((high**2 - s**2) * (s**2 - low**2), 0.0)) / (np.pi * beta * s)

    return brentq(lambda m: quad(density, low, m)[0] - 0.5, low, high) ** 2


def hard_threshold_coefficient(beta: float) -> float:
    """Threshold over median singular value: lambda_*(beta) / sqrt(mu_beta) (Gavish & Donoho 2014, omega)."""
    lambda_star = np.sqrt(2 * (beta + 1) + 8 * beta / ((beta + 1) + np.sqrt(beta**2 + 14 * beta + 1)))
    return lambda_star / np.sqrt(marchenko_pastur_median(beta))


def hard_threshold_rank(lam: np.ndarray, n: int, d: int) -> int:
    """Singular values above the optimal hard threshold, unknown noise (Gavish & Donoho 2014)."""
    small, large = min(n, d), max(n, d)
    sigma = np.sort(np.sqrt(n * np.maximum(_f64(lam), 0.0)))[::-1][:small]
    return int((sigma > hard_threshold_coefficient(small / large) * np.median(sigma)).sum())


# Spectral filters, zero outside V


def _filter_on_kept(formula: Callable[[np.ndarray], np.ndarray], threshold: float, rank: int | None) -> Filter:
    """A filter that is `formula` on the principal subspace and 0 elsewhere."""

    def filt(lam: np.ndarray, n: int) -> np.ndarray:
        """Filter values of the eigenvalues lam of K/n; n is the number of rows."""
        lam, keep = _f64(lam), kept(lam, threshold, rank)
        values = np.zeros_like(lam)
        values[keep] = formula(lam[keep])
        return values

    return filt


def ridge(strength: float, threshold: float = 0.0, rank: int | None = None) -> Filter:
    """f = lam / (lam + b), b the effective regularization (Xue et al. 2025, scaled principal kernel)."""
    return _filter_on_kept(lambda lam: lam / (lam + strength), threshold, rank)


def ridge_from_head(beta: float, n_fit: int, threshold: float = 0.0, rank: int | None = None) -> Filter:
    """f = lam / (lam + beta + gamma_fit), lam = mu - gamma (Xue et al. 2025, b = beta + gamma, shrunk mu)."""

    def filt(mu: np.ndarray, n: int) -> np.ndarray:
        """Filter values of the eigenvalues mu of K/n; n is the number of rows."""
        mu, keep = _f64(mu), kept(mu, threshold, rank)
        tail = mu[~keep].sum()
        lam = np.maximum(mu[keep] - tail / n, 0.0)
        values = np.zeros_like(mu)
        values[keep] = lam / (lam + beta + tail / n_fit)
        return values

    return filt


def projection(threshold: float = 0.0, rank: int | None = None) -> Filter:
    """f = 1 on V, the ridgeless filter (Xue et al. 2025 with b = 0; Dong et al. 2025)."""
    return _filter_on_kept(np.ones_like, threshold, rank)


def gradient_flow(time: float, threshold: float = 0.0, rank: int | None = None) -> Filter:
    """f = 1 - exp(-t lam), early-stopped gradient flow (Medvedev et al. 2025)."""
    return _filter_on_kept(lambda lam: 1 - np.exp(-time * lam), threshold, rank)


def iterated_tikhonov(strength: float, iterations: int, threshold: float = 0.0, rank: int | None = None) -> Filter:
    """f = 1 - (b / (lam + b))^m, m rounds of ridge on the residual (iterated Tikhonov)."""
    return _filter_on_kept(lambda lam: 1 - (strength / (lam + strength)) ** iterations, threshold, rank)


# Principal kernels and the prediction gap


def principal_kernel_from_kernel(kernel: np.ndarray, filt: Filter) -> np.ndarray:
    """P = U diag(f(lam)) U^T for a given kernel K (Xue et al. 2025, scaled principal kernel)."""
    lam, u = spectrum_of_kernel(kernel)
    return u @ np.diag(filt(lam, len(lam))) @ u.T


def principal_kernel(h: np.ndarray, filt: Filter) -> np.ndarray:
    """P = U diag(f(lam)) U^T for K = H H^T (Xue et al. 2025, scaled principal kernel)."""
    h = _f64(h)
    return principal_kernel_from_kernel(h @ h.T, filt)


def gap_operator_from_kernels(k_w: np.ndarray, k_s: np.ndarray, weak: Filter, strong: Filter) -> np.ndarray:
    """P_s (I - P_w) for given kernels (Xue et al. 2025, operator of the main theorem)."""
    p_w, p_s = principal_kernel_from_kernel(k_w, weak), principal_kernel_from_kernel(k_s, strong)
    return p_s @ (np.eye(len(p_w)) - p_w)


def gap_operator(h_w: np.ndarray, h_s: np.ndarray, weak: Filter, strong: Filter) -> np.ndarray:
    """P_s (I - P_w) (Xue et al. 2025, operator of the main theorem)."""
    h_w, h_s = _f64(h_w), _f64(h_s)
    return gap_operator_from_kernels(h_w @ h_w.T, h_s @ h_s.T, weak, strong)


def example_scores(h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray, weak: Filter, strong: Filter) -> np.ndarray:
    """Entries of P_s (I - P_w) y, one per example (Xue et al. 2025, inside the norm of the main theorem)."""
    return gap_operator(h_w, h_s, weak, strong) @ _f64(y)


def prediction_gap(h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray, weak: Filter, strong: Filter) -> np.ndarray:
    """||P_s (I - P_w) y / sqrt(n)||^2 per output (Xue et al. 2025, main theorem)."""
    scores = example_scores(h_w, h_s, y, weak, strong)
    return np.asarray(np.sum((scores / np.sqrt(len(scores))) ** 2, axis=0))


def gap_norm(h_w: np.ndarray, h_s: np.ndarray, weak: Filter, strong: Filter, ord: str = "op") -> np.ndarray:
    """||P_s (I - P_w)||, ord "op" or "fro", not squared (Xue et al. 2025, label-free metric)."""
    return np.asarray(np.linalg.norm(gap_operator(h_w, h_s, weak, strong), {"op": 2, "fro": "fro"}[ord]))


def gap_bound(h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray, weak: Filter, strong: Filter) -> np.ndarray:
    """||P_s (I - P_w)||_op^2 ||y||^2 / n per output (Xue et al. 2025, label-free bound)."""
    return np.asarray(gap_norm(h_w, h_s, weak, strong, "op") ** 2 * np.mean(_f64(y) ** 2, axis=0))


# Moments, normalization, similarity


def moments(h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray | None = None, bias: bool = False) -> dict[str, np.ndarray]:
    """H^T H / n, H^T y / n, y^T y / n and means (Xue et al. 2025, sample covariances)."""
    h_w, h_s, n = _f64(h_w), _f64(h_s), len(h_w)
    y = None if y is None else _f64(y)
    means = {"mean_w": h_w.mean(axis=0), "mean_s": h_s.mean(axis=0)}
    if y is not None:
        means["mean_y"] = np.asarray(y.mean(axis=0))
    if bias:
        h_w, h_s = h_w - means["mean_w"], h_s - means["mean_s"]
        y = None if y is None else y - means["mean_y"]
    second = {"ww": h_w.T @ h_w / n, "ss": h_s.T @ h_s / n, "sw": h_s.T @ h_w / n}
    if y is not None:
        second |= {"wy": h_w.T @ y / n, "sy": h_s.T @ y / n, "yy": np.asarray((y * y).sum(axis=0) / n)}
    return second | means


def normalized(h: np.ndarray, by_feature: bool = False) -> np.ndarray:
    """Columns centred, with `by_feature` of unit variance, then mean squared row norm 1 (Xue et al. 2025, boundedness of S)."""
    h = _f64(h) - _f64(h).mean(axis=0)
    if by_feature:
        spread = h.std(axis=0)
        h = np.where(spread > 0, h / np.where(spread > 0, spread, 1), 0)
    return h / np.sqrt(np.mean(np.sum(h**2, axis=1)))


def unit_rows(h: np.ndarray, normalize: str, fit: np.ndarray | None = None) -> np.ndarray:
    """Rows divided by their norms, centred and scaled before that as the rows `fit` say (by default all); 0 stays 0."""
    h, fit = _f64(h), _f64(h if fit is None else fit)
    if normalize != "none":
        spread = fit.std(axis=0) if normalize == "features" else np.ones(h.shape[1])
        h = np.where(spread > 0, (h - fit.mean(axis=0)) / np.where(spread > 0, spread, 1), 0)
    norms = np.linalg.norm(h, axis=1, keepdims=True)
    return h / np.where(norms > 0, norms, 1)


def linear_cka(h_w: np.ndarray, h_s: np.ndarray) -> np.ndarray:
    """||S_sw||_F^2 / (||S_s||_F ||S_w||_F) on centred columns (linear CKA, Kornblith et al. 2019)."""
    m = moments(h_w, h_s, bias=True)
    norm = {key: np.linalg.norm(m[key], "fro") for key in ("ww", "ss", "sw")}
    return np.asarray(norm["sw"] ** 2 / (norm["ss"] * norm["ww"]))


# Predictors


def debiased_cka(h_w: np.ndarray, h_s: np.ndarray) -> float:
    """From the U-statistic of HSIC over all quadruples of distinct rows (Song et al. 2012)."""
    i, j, q, r = np.array(list(itertools.permutations(range(len(h_w)), 4))).T
    K_w, K_s = (_f64(h) @ _f64(h).T for h in (h_w, h_s))
    hsic = lambda K, L: np.mean(K[i, j] * L[i, j] + K[i, j] * L[q, r] - 2 * K[i, j] * L[i, q])
    return hsic(K_w, K_s) / np.sqrt(hsic(K_w, K_w) * hsic(K_s, K_s))


def two_nn_dimension(h: np.ndarray, same: float = 3e-5, tail: int = 10) -> float:
    """Estimate of the rate of log(r_2 / r_1), the largest tenth censored, among rows that differ (Facco et al. 2017)."""
    h = _f64(h)
    size = np.sqrt(np.mean(np.sum((h - h.mean(0)) ** 2, 1)))
    distance = np.linalg.norm(h[:, None] - h, axis=2)
    kept = [i for i in range(len(h)) if not (distance[i, :i] <= same * size).any()]
    if len(kept) < 3:
        return 0.0
    first, second = np.sort(distance[np.ix_(kept, kept)], 1)[:, 1:3].T
    ratios = np.sort(np.log(second / first))
    k = len(ratios) - len(ratios) // tail
    return (k - 1) / (ratios[:k].sum() + (len(ratios) - k) * ratios[k - 1])


def h_score(h: np.ndarray, classes: np.ndarray, ridge: float = 0.0) -> float:
    """tr((S + ridge)^+ S_between), S_between the covariance of class means (Bao et al. 2019)."""
    h = _f64(h) - _f64(h).mean(0)
    means = np.stack([h[classes == c].mean(0) for c in classes])
    S = h.T @ h / len(h) + ridge * np.eye(h.shape[1])
    return float(np.trace(np.linalg.pinv(S, rcond=1e-10, hermitian=True) @ means.T @ means) / len(h))


def kl_divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Mean over rows of sum_k p_k log(p_k / q_k), for (n,) of a Bernoulli."""
    p, q = (np.stack([1 - x, x], 1) if x.ndim == 1 else x for x in (_f64(p), _f64(q)))
    return float(np.mean(np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0), 1)))


# Heads and the experiment itself


def ridge_head(h: np.ndarray, y: np.ndarray, beta: float) -> np.ndarray:
    """argmin of mean squared loss + beta ||theta||^2, by normal equations (Xue et al. 2025, linear head)."""
    h, y = _f64(h), _f64(y)
    return np.linalg.solve(h.T @ h / len(h) + beta * np.eye(h.shape[1]), h.T @ y / len(h))


def experiment(
    h_w_A: np.ndarray,
    h_s_B: np.ndarray,
    h_w_B: np.ndarray,
    h_s_C: np.ndarray,
    y_C: np.ndarray,
    y_A: np.ndarray,
    beta_w: float,
    beta_s: float,
) -> np.ndarray:
    """Weak head on A, its student on B, the student's squared error on C (Xue et al. 2025, Err of f_w2s)."""
    pseudo_labels = _f64(h_w_B) @ ridge_head(h_w_A, y_A, beta_w)
    error = _f64(h_s_C) @ ridge_head(h_s_B, pseudo_labels, beta_s) - _f64(y_C)
    return np.asarray(np.sum(error**2) / len(error))


def matrix_sqrt(a: np.ndarray) -> np.ndarray:
    """Symmetric square root of a positive semidefinite matrix."""
    lam, v = np.linalg.eigh(_f64(a))
    return v @ np.diag(np.sqrt(np.maximum(lam, 0.0))) @ v.T


def expected_experiment(
    h_w_blocks: Blocks,
    h_s_blocks: Blocks,
    beta_w: float,
    beta_s: float,
    gamma_sqrt: np.ndarray,
    noise_variance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(E Err_w2s, E PredGap) over y = H_s theta + noise, heads of Xue et al. 2025 on row blocks A, B, C."""
    a, b, c = (moments(h_w, h_s) for h_w, h_s in zip(h_w_blocks, h_s_blocks, strict=True))
    n_a, gamma_sqrt = len(h_w_blocks[0]), _f64(gamma_sqrt)
    weak = a["ww"] + beta_w * np.eye(len(a["ww"]))
    strong = b["ss"] + beta_s * np.eye(len(b["ss"]))
    t = np.linalg.solve(weak, a["sw"].T @ gamma_sqrt)  # weak heads
    z = np.linalg.solve(weak, matrix_sqrt(a["ww"] / n_a)) * np.sqrt(noise_variance)  # their noise
    q = np.linalg.solve(strong, b["sw"] @ t)  # students
    w = np.linalg.solve(strong, b["sw"] @ z)  # their noise
    r = np.linalg.solve(strong, b["ss"] @ gamma_sqrt)  # ceilings
    root = matrix_sqrt(c["ss"])
    noise = np.linalg.norm(root @ w, "fro") ** 2
    error = np.linalg.norm(root @ (q - gamma_sqrt), "fro") ** 2
    gap = np.linalg.norm(root @ (q - r), "fro") ** 2
    return np.asarray(error + noise), np.asarray(gap + noise)


def group_projection(groups: np.ndarray) -> np.ndarray:
    """Projection (n, n) on the means of groups of more than one row."""
    same = np.equal.outer(groups, groups)
    sizes = same.sum(1)
    return np.where(same & (sizes > 1), 1 / sizes, 0.0)


LEAST_SHARE = 0.35


def label_posterior(
    h_all: np.ndarray, h: np.ndarray, y: np.ndarray, grid: tuple, groups: np.ndarray | None = None
) -> list[tuple]:
    """(weight, mean, covariance, noise variance, c) for every output and point (p, R, c) of a grid, R >= .35, by m x m solves."""
    h_all, h, y = _f64(h_all), _f64(h), _f64(y).reshape(len(h), -1)
    lam, v = np.linalg.eigh(h_all.T @ h_all / len(h_all))
    kept = lam > NUMERICALLY_ZERO * lam[-1]
    related = np.zeros((len(h), len(h))) if groups is None else group_projection(groups)
    points = []
    for t in y.T:
        found = []
        for p, share, c in itertools.product(*grid):
            if share < LEAST_SHARE:
                continue
            power = np.where(kept, np.where(kept, lam, 1) ** (p - 1), p == 1)
            gamma = v * (power / np.sum(power * lam)) @ v.T
            kernel = share * h @ gamma @ h.T + (1 - share) * (np.eye(len(h)) + c * related)
            solved, back = np.linalg.solve(kernel, t), np.linalg.solve(kernel, h @ gamma)
            size = t @ solved / len(h)
            likelihood = -len(h) / 2 * np.log(size) - np.linalg.slogdet(kernel)[1] / 2
            covariance = size * (share * gamma - share**2 * gamma @ h.T @ back)
            found.append((likelihood, share * gamma @ h.T @ solved, covariance, size * (1 - share), c))
        weights = np.exp([point[0] - max(found, key=lambda x: x[0])[0] for point in found])
        points += [(w / weights.sum(), *point[1:]) for w, point in zip(weights, found, strict=True)]
    return points


def posterior_experiment(
    h_w_blocks: Blocks,
    h_s_blocks: Blocks,
    beta_w: float,
    beta_s: float,
    points: list[tuple],
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(E Err_w2s, E PredGap) given labels: `tr M (mu mu^T + Sigma) + v (1 - R) N` averaged over a posterior's points."""
    (w_A, w_B, _), (s_A, s_B, s_C) = (map(_f64, blocks) for blocks in (h_w_blocks, h_s_blocks))
    related = np.zeros((len(w_A), len(w_A))) if groups is None else group_projection(groups)
    weak = np.linalg.solve(w_A.T @ w_A / len(w_A) + beta_w * np.eye(w_A.shape[1]), w_A.T / len(w_A))
    strong = np.linalg.solve(s_B.T @ s_B / len(s_B) + beta_s * np.eye(s_B.shape[1]), s_B.T / len(s_B))
    heads = strong @ w_B @ weak  # of labels on A
    result = np.zeros(2)
    for weight, mean, covariance, noise, c in points:
        second = np.outer(mean, mean) + covariance
        response = np.sum((s_C @ heads) @ (np.eye(len(w_A)) + c * related) * (s_C @ heads)) / len(s_C)
        for i, target in enumerate((np.eye(s_A.shape[1]), strong @ s_B)):
            away = s_C @ (heads @ s_A - target)
            result[i] += weight * (np.sum(away @ second * away) / len(s_C) + noise * response)
    return np.asarray(result[0]), np.asarray(result[1])


def taught(h_w_blocks: Blocks, h_s_B: np.ndarray, betas: tuple[float, float]) -> tuple[np.ndarray, ...]:
    """What labels of block A become: a teacher's outputs on B and on C, and its student's head (Xue et al. 2025)."""
    w_A, w_B, w_C = map(_f64, h_w_blocks)
    weak = np.linalg.solve(w_A.T @ w_A / len(w_A) + betas[0] * np.eye(w_A.shape[1]), w_A.T / len(w_A))
    return w_B @ weak, w_C @ weak, ridge_head(h_s_B, w_B @ weak, betas[1])


def misfit_bound(f_B: np.ndarray, f_C: np.ndarray, y_C: np.ndarray, h_s_B: np.ndarray, beta: float) -> float:
    """A teacher's error less the misfit and the penalty of its student (Charikar et al. 2024, for a penalised student); products
    with labels are of rows C, the teacher's energy of rows B."""
    head = ridge_head(h_s_B, f_B, beta)
    square = lambda x: np.sum(x * x) / len(x)
    error = square(f_B) - 2 * np.sum(f_C * y_C) / len(y_C) + square(y_C)
    return error - square(f_B - h_s_B @ head) - beta * np.sum(head * head)


def planned_penalty(h: np.ndarray, beta: float, planned: float) -> tuple[float, float]:
    """The penalty l on n rows that acts as beta on planned ones, `beta = kappa(l) (1 - df(l) / planned)`, 0 if none is small
    enough; and `n - df2 = n dl / dkappa`."""
    n = len(h)
    lam = np.maximum(np.linalg.eigvalsh(h @ h.T / n), 1e-14)
    kappa = lambda l: n / np.sum(1 / (lam + l))
    excess = lambda x: kappa(np.exp(x)) * (1 - np.sum(lam / (lam + np.exp(x))) / planned) - beta
    low, high = np.log(1e-12), np.log(beta + n / planned * lam.sum())
    found = 0.0 if excess(low) > 0 else float(np.exp(brentq(excess, low, high, xtol=1e-15, rtol=1e-15)))
    return found, float(np.sum(1 / (lam + found)) ** 2 / np.sum(1 / (lam + found) ** 2))


def planned_experiment(
    h_w_blocks: Blocks,
    h_s_blocks: Blocks,
    betas: tuple[float, float],
    planned: tuple[float, float],
    root: np.ndarray,
    noise: np.ndarray,
) -> np.ndarray:
    """(error, gap) of the expected experiment as of planned rows, for targets `root` (d_s, r) and label noise (n_A, n_A) on A."""
    (w_A, w_B, w_C), (s_A, s_B, s_C) = (map(_f64, blocks) for blocks in (h_w_blocks, h_s_blocks))
    heads, kept, lost = [], [], []
    for h, beta, rows in zip((w_A, s_B), betas, planned, strict=True):
        n, (penalty, slack) = len(h), planned_penalty(h, beta, rows)
        heads.append(np.linalg.solve(h.T @ h / n + penalty * np.eye(h.shape[1]), h.T / n))
        kept.append(slack / (rows - n + slack))
        lost.append((1 - kept[-1]) * slack / n)
    weak, strong = heads
    square = lambda x, inside=None: np.sum((x if inside is None else x @ inside) * x) / len(s_C)
    y, output, ceiling = s_C @ root, w_C @ weak @ s_A @ root, s_C @ strong @ s_B @ root
    to_output, to_student = w_C @ weak, s_C @ strong @ w_B @ weak  # of labels on A
    student = to_student @ s_A @ root
    errors = []
    for of, answered in ((y, output), (ceiling, ceiling - y + output)):
        parts = [
            square(x) + kept[0] * square(e, noise) - lost[0] * square(y - output) * square(e)
            for x, e in ((student - of, to_student), (student - answered, to_student - to_output))
        ]
        errors.append(parts[0] - lost[1] * square(s_C @ strong) * parts[1])
    return np.array(errors)


# The two-stage deterministic equivalent


def effective_ridge(lam: np.ndarray, n: float, beta: float) -> float:
    """Root of kappa = beta + (kappa/n) sum lam/(lam + kappa); 0 if beta = 0 and n >= rank (deterministic equivalent)."""
    lam = _f64(lam)
    lam = lam[lam > 0]
    if beta == 0 and n >= len(lam):
        return 0.0
    # 1 - kappa / (lam + kappa) for lam / (lam + kappa), so that nothing cancels where n = rank.
    excess = lambda x: beta * np.exp(-x) + (len(lam) - n) / n - np.sum(np.exp(x) / (lam + np.exp(x))) / n
    top = np.log(beta + np.sum(lam) / n)
    return float(np.exp(brentq(excess, top - 60, top + 1e-9, xtol=1e-15, rtol=1e-15)))


def one_stage(sigma: np.ndarray, c: np.ndarray, energy: float, n: float, beta: float) -> tuple:
    """Mean and covariance of a ridge head on n rows of labels with moment c and mean square `energy` (one stage)."""
    sigma, c = _f64(sigma), _f64(c)
    lam = np.linalg.eigvalsh(sigma)
    kappa = effective_ridge(np.where(lam > NUMERICALLY_ZERO * lam[-1], lam, 0), n, beta)
    resolvent = np.linalg.pinv(sigma + kappa * np.eye(len(sigma)), rcond=NUMERICALLY_ZERO, hermitian=True)
    v = np.linalg.pinv(sigma, rcond=NUMERICALLY_ZERO, hermitian=True) @ c
    df2 = np.trace(sigma @ resolvent @ sigma @ resolvent)
    bias = kappa**2 * v @ resolvent @ sigma @ resolvent @ v
    residual = energy - c @ v
    tau = (bias + residual) / (n - df2)
    return resolvent @ sigma @ v, tau * resolvent @ sigma @ resolvent, tau * n, df2


def deterministic_equivalent(
    m: dict[str, np.ndarray], noise: float, n_w: float, n_s: float, beta_w: float, beta_s: float
) -> dict[str, float]:
    """Errors against the noise-free target and the gap, as sums over draws of theta_w: mean +- roots of its covariance."""
    energy = m["yy"] + noise
    mean, covariance, weak, _ = one_stage(m["ww"], m["wy"], energy, n_w, beta_w)
    _, _, ceiling, _ = one_stage(m["ss"], m["sy"], energy, n_s, beta_s)
    # A quadratic function's mean over theta_w is its mean over 2 k_w points with the same mean and covariance.
    roots = matrix_sqrt(covariance) * np.sqrt(len(mean))
    outcomes = []
    for theta in np.concatenate([mean + roots, mean - roots]):
        taught, output = m["sw"] @ theta, theta @ m["ww"] @ theta
        student, spread, total, df2 = one_stage(m["ss"], taught, output, n_s, beta_s)
        error = m["yy"] - 2 * student @ m["sy"] + student @ m["ss"] @ student + np.trace(m["ss"] @ spread)
        lost, left = m["sy"] - taught, energy - 2 * theta @ m["wy"] + output
        apart, spread, total, df2 = one_stage(m["ss"], lost, left, n_s, beta_s)
        outcomes.append([error, apart @ m["ss"] @ apart + total * df2 / n_s])
    student, gap = np.mean(outcomes, 0)
    return {"weak_error": weak - noise, "student_error": student, "ceiling_error": ceiling - noise, "gap": gap}


def with_tails(m: dict[str, np.ndarray], weak: tuple[float, int], strong: tuple[float, int]) -> dict[str, np.ndarray]:
    """The same moments with each isotropic tail (variance, width) written out as features."""
    (v_w, d_w), (v_s, d_s) = weak, strong
    return m | {
        "ww": block_diag(m["ww"], v_w * np.eye(d_w)),
        "ss": block_diag(m["ss"], v_s * np.eye(d_s)),
        "sw": np.pad(m["sw"], ((0, d_s), (0, d_w))),
        "wy": np.pad(m["wy"], (0, d_w)),
        "sy": np.pad(m["sy"], (0, d_s)),
    }


def equivalent_errors(
    h_s: np.ndarray, y: np.ndarray, weak_outputs: np.ndarray, beta: float, bias: bool = False
) -> np.ndarray:
    """Student error, ceiling error and gap per output, with e(t) = (kappa/beta) r(t) for t (equivalent from data)."""
    h_s, y, f_w, n = _f64(h_s), _f64(y), _f64(weak_outputs), len(h_s)
    constants = np.full((n, n), float(bias) / n)
    h_s = h_s - constants @ h_s
    shrink = beta * np.linalg.inv(h_s @ h_s.T / n + beta * np.eye(n)) @ (np.eye(n) - constants)
    fresh = lambda t: n / np.trace(shrink) * shrink @ t
    vectors = y - f_w + fresh(f_w), fresh(y), y - f_w - fresh(y - f_w)
    return np.stack([np.mean(v * v, 0) for v in vectors])


# Decomposability, on n x n kernels


def decomposability(
    h_labelled: np.ndarray,
    h_student: np.ndarray,
    k: int,
    y_labelled: np.ndarray,
    y_student: np.ndarray,
    population: np.ndarray | None = None,
    bias: bool = False,
) -> dict[str, np.ndarray]:
    """Measured conditions for V = leading k directions, over ||Sigma|| (Xue et al. 2025, decomposability).

    Sigma is the population covariance, or the pooled second moment, whose tail then keeps its share gamma / mu_j of V.
    """
    arrays = [_f64(x) for x in (h_labelled, h_student, y_labelled, y_student)]
    arrays = [x - x.mean(axis=0) for x in arrays] if bias else arrays
    a, b, *labels = arrays
    y_a, y_b = (y.reshape(len(y), -1) for y in labels)
    n, m = len(a), len(b)
    sigma = (a.T @ a + b.T @ b) / (n + m) if population is None else _f64(population)
    mu, v = np.linalg.eigh(sigma)
    mu, v = mu[::-1], v[:, ::-1]
    gamma_pooled = mu[k:].sum() / (n + m) if population is None else 0.0
    scale, on_v = mu[0], v[:, :k]
    tail = np.eye(len(mu)) - on_v @ on_v.T + on_v @ np.diag(np.sqrt(gamma_pooled / mu[:k])) @ on_v.T
    s_a, s_b, t_a, t_b = a.T @ a / n, b.T @ b / m, a @ tail, b @ tail
    gammas = [np.trace(t @ t.T) / len(t) ** 2 for t in (t_a, t_b)]
    isotropy = [np.linalg.norm(_isotropy_residual(t, g, bias), 2) for t, g in zip((t_a, t_b), gammas, strict=True)]
    shares = [np.sqrt(m / (n + m)), np.sqrt(n / (n + m))]
    if population is None:
        off = [share * np.linalg.norm(on_v.T @ (s_a - s_b) @ on_v, 2) if k else 0.0 for share in shares]
        fresh = [_variance_along_top(one, other) for one, other in ((t_a, t_b), (t_b, t_a))]
    else:
        off = [np.linalg.norm(on_v.T @ (s - sigma) @ on_v, 2) if k else 0.0 for s in (s_a, s_b)]
        fresh = [np.linalg.norm(tail @ sigma @ tail, 2)]
    energies = np.array([np.sum(y_a**2) / n, np.sum(y_b**2) / m])
    energy = (n * energies[0] + m * energies[1]) / (n + m)
    cross = np.linalg.norm(on_v.T @ (a.T @ y_a / n - b.T @ y_b / m), "fro")
    return {
        "smallest": np.asarray(max(mu[k - 1] - gamma_pooled, 0) / scale if k else 0.0),
        "gamma": np.array(gammas) / scale,
        "concentration": np.array(off) / scale,
        "labels": np.array(shares) * cross / np.sqrt(scale * energy),
        "isotropy": np.array(isotropy) / scale,
        "crossing": np.linalg.norm(t_a @ t_b.T, 2) / np.sqrt(n * m) / scale,
        "diminishing": np.asarray(max(fresh) / scale),
        "norms": np.array([np.linalg.norm(s_a, 2), np.linalg.norm(s_b, 2)]) / scale,
        "energies": energies,
    }


def _isotropy_residual(tail: np.ndarray, gamma: float, bias: bool) -> np.ndarray:
    """(1/n) K(tail) - gamma I, on vectors of mean zero if centred (Xue et al. 2025, kernel-wise isotropy)."""
    n = len(tail)
    seen = np.eye(n) - np.ones((n, n)) / n if bias else np.eye(n)
    return seen @ (tail @ tail.T / n - gamma * np.eye(n)) @ seen


def _variance_along_top(one: np.ndarray, other: np.ndarray) -> float:
    """Mean square of `other` along the leading direction of `one` (Xue et al. 2025, tail covariance, cross-split)."""
    _, v = np.linalg.eigh(one.T @ one)
    return float(np.mean((other @ v[:, -1]) ** 2))


# Synthetic families and whole experiments, every feature written out


def tail_moments(tail: np.ndarray, scale: float, ridge: float, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Top left (m, m) blocks of A^{-1} and A^{-1} (A - ridge I) A^{-1}, A = scale G G^T + ridge I, G (n, width)."""
    kernel = scale * _f64(tail) @ _f64(tail).T
    inverse = np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
    return inverse[:m, :m], (inverse @ kernel @ inverse)[:m, :m]


def dual_ridge_head(h: np.ndarray, y: np.ndarray, beta: float) -> np.ndarray:
    """The same head by its dual, H^T (H H^T + n beta I)^{-1} y; defined without ridge where rows are independent."""
    h, y = _f64(h), _f64(y)
    return h.T @ np.linalg.solve(h @ h.T + len(h) * beta * np.eye(len(h)), y)


def synthetic_trial(
    rng: np.random.Generator,
    maps: tuple[np.ndarray, np.ndarray, np.ndarray],
    noise: float,
    tails: tuple[tuple[float, int], tuple[float, int]],
    sizes: tuple[int, int],
    ridges: tuple[float, float],
    predicted: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """(Err_w, Err_w2s, Err_sc, PredGap) of one experiment (Xue et al. 2025, setting), and `predicted` from the principal parts.

    `maps` = (A_w, A_s, a) of a latent x ~ N(0, I), tails = (variance, width) of real columns; errors on the population.
    """
    A_w, A_s, a = map(_f64, maps)

    def rows(n: int) -> tuple[np.ndarray, ...]:
        x = rng.standard_normal((n, len(a)))
        tail_w, tail_s = (np.sqrt(variance) * rng.standard_normal((n, width)) for variance, width in tails)
        y = x @ a + np.sqrt(noise) * rng.standard_normal(n)
        return x @ A_w.T, x @ A_s.T, tail_w, tail_s, y

    def error(theta: np.ndarray, A: np.ndarray, target: np.ndarray, variance: float) -> float:
        k = len(A)
        return np.sum((A.T @ theta[:k] - target) ** 2) + variance * np.sum(theta[k:] ** 2)

    (n_w, n_s), (beta_w, beta_s), (v_w, v_s) = sizes, ridges, (variance for variance, _ in tails)
    w, _, tail_w, _, y = rows(n_w)
    weak = dual_ridge_head(np.hstack([w, tail_w]), y, beta_w)
    w, s, tail_w, tail_s, y = rows(n_s)
    h_s = np.hstack([s, tail_s])
    student = dual_ridge_head(h_s, np.hstack([w, tail_w]) @ weak, beta_s)
    ceiling = dual_ridge_head(h_s, y, beta_s)
    errors = error(weak, A_w, a, v_w), error(student, A_s, a, v_s), error(ceiling, A_s, a, v_s)
    return np.array([*errors, error(student - ceiling, A_s, 0 * a, v_s), predicted(w, s, y)])


def relu_moment(u: np.ndarray, v: np.ndarray) -> float:
    """Covariance of relu(u.x) and relu(v.x), x ~ N(0, I), by integrating over the angle in the plane of u and v."""
    u, v = _f64(u), _f64(v)
    norms = np.linalg.norm(u) * np.linalg.norm(v)
    phi = np.arccos(np.clip(u @ v / norms, -1, 1))
    # Both factors are positive between phi - pi/2 and pi/2; the squared radius has mean 2.
    integral = quad(lambda t: np.cos(t) * np.cos(t - phi), phi - np.pi / 2, np.pi / 2, epsabs=1e-14)[0]
    return norms * (2 * integral - 1) / (2 * np.pi)


# Linear heads


def ridge_probe(
    h: np.ndarray, y: np.ndarray, beta: float, bias: bool = True, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(theta, bias) of argmin sum_i w_i ||theta^T h_i + bias - y_i||^2 + beta ||theta||^2, of minimum norm if not unique."""
    h, y = _f64(h), _f64(y)
    w = np.ones(len(h)) / len(h) if weights is None else _f64(weights) / np.sum(_f64(weights))
    mean_h, mean_y = (w @ h, w @ y) if bias else (np.zeros(h.shape[1]), np.zeros(y.shape[1:]))
    root = np.sqrt(w)
    rows, labels = root[:, None] * (h - mean_h), (root * (y - mean_y).T).T
    rows = np.vstack([rows, np.sqrt(beta) * np.eye(h.shape[1])])
    labels = np.concatenate([labels, np.zeros((h.shape[1], *y.shape[1:]))])
    theta = np.linalg.lstsq(rows, labels, rcond=1e-10)[0]
    return theta, mean_y - mean_h @ theta


def cross_validated_errors(
    h: np.ndarray, y: np.ndarray, betas: np.ndarray, fold: np.ndarray, bias: bool = True
) -> np.ndarray:
    """Mean over rows of each row's squared error under the ridge head of the other folds, per penalty."""
    errors = np.zeros((len(betas), len(h)))
    for i, beta in enumerate(betas):
        for k in np.unique(fold):
            theta, intercept = ridge_probe(h[fold != k], y[fold != k], beta, bias)
            miss = _f64(h)[fold == k] @ theta + intercept - _f64(y)[fold == k]
            errors[i, fold == k] = np.sum(miss.reshape(len(miss), -1) ** 2, 1)
    return errors.mean(1)


def cross_entropy(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Per row: -y log p - (1 - y) log(1 - p) of a sigmoid for (n,), -sum_k y_k log p_k of a softmax for (n, c)."""
    z, y = _f64(z), _f64(y)
    if z.ndim == 1:
        p = 1 / (1 + np.exp(-z))
        return -y * np.log(p) - (1 - y) * np.log(1 - p)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return -np.sum(y * np.log(p), 1)


def reverse_cross_entropy(z: np.ndarray, y: np.ndarray, entropy: float, floor: float) -> np.ndarray:
    """Per row: -sum_k p_k log q_k + entropy sum_k p_k log p_k, q = (1 - floor) y + floor/c (student first)."""
    z, y = _f64(z), _f64(y)
    if z.ndim == 1:
        z, y = np.stack([0 * z, z], 1), np.stack([1 - y, y], 1)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    q = (1 - floor) * y + floor / y.shape[1]
    return np.sum(p * (entropy * np.log(p) - np.log(q)), 1)


# Weak-to-strong fine-tuning


def ridge_outputs(h: np.ndarray, y: np.ndarray, beta: float, bias: bool = True) -> Callable[[np.ndarray], np.ndarray]:
    """Outputs of the ridge head of (h, y) on other rows."""
    theta, intercept = ridge_probe(h, y, beta, bias)
    return lambda rows: _f64(rows) @ theta + intercept


def nearest_class(f: np.ndarray, code: tuple[float, float]) -> np.ndarray:
    """Class of each row coded (low, high): the side of the middle for one output, the largest of several."""
    chosen = f > np.mean(code) if f.ndim == 1 or f.shape[1] == 1 else f == f.max(1, keepdims=True)
    return np.where(chosen, code[1], code[0])


def weak_to_strong(
    labelled: Blocks,
    student: Blocks,
    test: Blocks,
    heads: tuple[Callable, Callable, Callable],
    code: tuple[float, float] | None = None,
    hard: bool = False,
) -> tuple[dict[str, float], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All that is measured (Xue et al. 2025, three predictors; Burns et al. 2023, PGR), and the three predictions.

    Splits are (h_w, h_s, y); heads fit weak head, student and ceiling: `head(h, y)(rows)` are predictions.
    """
    (h_a, _, y_a), (h_b, z_b, y_b), (h_c, z_c, y_c) = ([_f64(x) for x in split] for split in (labelled, student, test))
    weak = heads[0](h_a, y_a)
    label = lambda f: nearest_class(f, code) if hard else f
    taught, ceiling = heads[1](z_b, label(weak(h_b))), heads[2](z_b, y_b)
    f_w, f_w2s, f_sc = weak(h_c), taught(z_c), ceiling(z_c)
    square = lambda f, g: np.sum((f - g) ** 2) / len(f)
    found = {
        "weak_error": square(f_w, y_c),
        "student_error": square(f_w2s, y_c),
        "ceiling_error": square(f_sc, y_c),
        "gap": square(f_w2s, f_sc),
        "misfit": square(f_w2s, label(f_w)),
        "misfit_in_sample": square(taught(z_b), label(weak(h_b))),
    }
    found["pgr"] = (found["weak_error"] - found["student_error"]) / (found["weak_error"] - found["ceiling_error"])
    if code is not None:
        chosen = [nearest_class(f, code).reshape(len(f), -1) for f in (f_w, f_w2s, f_sc)]
        right = [np.mean((c == y_c.reshape(len(c), -1)).all(1)) for c in chosen]
        found |= dict(zip(("weak_accuracy", "student_accuracy", "ceiling_accuracy"), right, strict=True))
        found["agreement"] = np.mean((chosen[0] == chosen[1]).all(1))
        found["accuracy_pgr"] = (right[1] - right[0]) / (right[2] - right[0])
    return found, (f_w, f_w2s, f_sc)


# Selection of weakly labelled rows


def kernel_smoother(h: np.ndarray, ridge: float) -> np.ndarray:
    """`K (K + ridge tr(K) / n)^{-1}`, `K = h h^T / n` of centred rows (RADS-Lin)."""
    h = _f64(h) - _f64(h).mean(0)
    n = len(h)
    K = h @ h.T / n
    return K @ np.linalg.pinv(K + ridge * np.trace(K) / n * np.eye(n), rcond=1e-12, hermitian=True)


def rads_scores(
    h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray, ridge: float, weak_part: np.ndarray | None = None
) -> np.ndarray:
    """Row norms of `P_s (I - P_w) y_c`, or of `P_s (y_c - weak_part)`."""
    y = (_f64(y) - _f64(y).mean(0)).reshape(len(y), -1)
    part = kernel_smoother(h_w, ridge) @ y if weak_part is None else _f64(weak_part).reshape(y.shape)
    return np.linalg.norm(kernel_smoother(h_s, ridge) @ (y - part), axis=1)


def change_point(values: np.ndarray) -> float:
    """Largest value of the lower part, of the split of the sorted values with the least squared error."""
    ordered = np.sort(_f64(values))
    spread = lambda part: np.sum((part - part.mean()) ** 2)
    cost = [spread(ordered[:k]) + spread(ordered[k:]) for k in range(1, len(ordered))]
    return float(ordered[np.argmin(cost)])


def cosines(h: np.ndarray, normalize: str = "none") -> np.ndarray:
    """Between all rows; 0 with a row of zeros."""
    unit = unit_rows(h, normalize)
    return unit @ unit.T


def overlap_density(
    h: np.ndarray, confidence: np.ndarray, normalize: str = "none"
) -> tuple[np.ndarray, np.ndarray, float]:
    """Hard rows, overlapping rows, and the share of these (Shin et al. 2025)."""
    hard = confidence <= change_point(confidence)
    similarity = np.abs(cosines(h, normalize))[:, hard].max(1)
    overlap = ~hard & (similarity > change_point(similarity[~hard]))
    return hard, overlap, float(overlap.mean())


def nearest(h: np.ndarray, k: int, normalize: str = "none") -> np.ndarray:
    """The k other rows of largest cosine."""
    similar = cosines(h, normalize)
    np.fill_diagonal(similar, -np.inf)
    return np.argsort(-similar, axis=1, kind="stable")[:, :k]


def smoothed_labels(h: np.ndarray, y: np.ndarray, k: int, share: float) -> np.ndarray:
    """`(1 - share) (I - share S)^{-1} y` on the symmetrised graph of neighbours."""
    A = np.zeros((len(h), len(h)))
    A[np.arange(len(h))[:, None], nearest(h, k)] = 1
    W = (A + A.T) / 2
    root = 1 / np.sqrt(W.sum(1))
    return (1 - share) * np.linalg.solve(np.eye(len(h)) - share * root[:, None] * W * root, _f64(y))


# Hidden states of encoders


def encoder_states(
    weights: dict[str, np.ndarray],
    tokens: list[int],
    heads: int,
    eps: float,
    first: int = 0,
    relative: np.ndarray | None = None,
) -> np.ndarray:
    """Hidden states (layers + 1, l, d) of one text, no padding, under the names of Devlin et al.'s (2019) encoder.

    `first` is the first position, `relative` MPNet's biases (buckets, heads) of attention by relative position.
    """
    weights = {name: _f64(x) for name, x in weights.items()}

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        deviation = np.sqrt(x.var(axis=1, keepdims=True) + eps)
        return (x - x.mean(axis=1, keepdims=True)) / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][[first + i for i in range(len(tokens))]]
    x = x + weights.get("embeddings.token_type_embeddings.weight", np.zeros((1, x.shape[1])))[0]
    states = [normed(x, "embeddings.LayerNorm")]
    while f"encoder.layer.{len(states) - 1}.intermediate.dense.weight" in weights:
        x, layer = states[-1], f"encoder.layer.{len(states) - 1}."
        query, key, value = (dense(x, f"{layer}attention.self.{name}") for name in ("query", "key", "value"))
        width, mixed = x.shape[1] // heads, np.zeros_like(x)
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            for i in range(len(tokens)):
                score = key[:, own] @ query[i, own] / np.sqrt(width)
                if relative is not None:
                    score = score + [_f64(relative)[_relative_bucket(j - i), head] for j in range(len(tokens))]
                share = np.exp(score - score.max())
                mixed[i, own] = share @ value[:, own] / share.sum()
        x = normed(x + dense(mixed, f"{layer}attention.output.dense"), f"{layer}attention.output.LayerNorm")
        inner = dense(x, f"{layer}intermediate.dense")
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        states.append(normed(x + dense(inner, f"{layer}output.dense"), f"{layer}output.LayerNorm"))
    return np.stack(states)


def _relative_bucket(away: int) -> int:
    """32 buckets (Raffel et al. 2020): 16 for each direction, 8 of them for distances below 8, 8 up to 128 by logarithm."""
    side = 16 if away > 0 else 0
    if abs(away) < 8:
        return side + abs(away)
    return side + min(8 + int(8 * np.log(abs(away) / 8) / np.log(16)), 15)
