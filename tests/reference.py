"""Dense float64 NumPy reference: the equations as printed, on n x n matrices, with no trick of the library.

Eigenvalues are those of K/n with K = H H^T, in descending order. A filter is a callable `f(lam, n)`, zero
outside the principal subspace. Labels are (n,) or (n, c); per-output results are 0-d or (c,) arrays.
"""

from collections.abc import Callable

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq

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


def moments(
    h_w: np.ndarray, h_s: np.ndarray, y: np.ndarray | None = None, center: bool = False
) -> dict[str, np.ndarray]:
    """H^T H / n, H^T y / n, y^T y / n and means (Xue et al. 2025, sample covariances)."""
    h_w, h_s, n = _f64(h_w), _f64(h_s), len(h_w)
    y = None if y is None else _f64(y)
    means = {"mean_w": h_w.mean(axis=0), "mean_s": h_s.mean(axis=0)}
    if y is not None:
        means["mean_y"] = np.asarray(y.mean(axis=0))
    if center:
        h_w, h_s = h_w - means["mean_w"], h_s - means["mean_s"]
        y = None if y is None else y - means["mean_y"]
    second = {"ww": h_w.T @ h_w / n, "ss": h_s.T @ h_s / n, "sw": h_s.T @ h_w / n}
    if y is not None:
        second |= {"wy": h_w.T @ y / n, "sy": h_s.T @ y / n, "yy": np.asarray((y * y).sum(axis=0) / n)}
    return second | means


def normalized(h: np.ndarray) -> np.ndarray:
    """Columns centred, then mean squared row norm 1 (tr S = 1; Xue et al. 2025, boundedness of S)."""
    h = _f64(h) - _f64(h).mean(axis=0)
    return h / np.sqrt(np.mean(np.sum(h**2, axis=1)))


def linear_cka(h_w: np.ndarray, h_s: np.ndarray) -> np.ndarray:
    """||S_sw||_F^2 / (||S_s||_F ||S_w||_F) on centred columns (linear CKA, Kornblith et al. 2019)."""
    m = moments(h_w, h_s, center=True)
    norm = {key: np.linalg.norm(m[key], "fro") for key in ("ww", "ss", "sw")}
    return np.asarray(norm["sw"] ** 2 / (norm["ss"] * norm["ww"]))


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
