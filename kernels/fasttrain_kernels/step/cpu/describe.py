"""Statistics of every group from its sums, in one pass: the loop of `cpu.describe`."""

import numba
import numpy as np

from ...numba_runtime.elements import FP64, INLINE, INT32, OPTIONS, array
from .loops import JOB, PER_GROUP


@numba.njit(**INLINE)
def _angle(y, x):
    """atan2(y, x) for y >= 0, without branches; Cephes' rational function, to 2 ulp."""
    most, least = max(y, abs(x)), min(y, abs(x))
    # Beyond tan(pi / 8) by the tangent of the difference to pi / 4.
    high = least > 0.41421356237309503 * most
    top = least - most if high else least
    bottom = least + most if high else most
    q = top / (bottom if bottom != 0.0 else 1.0)
    z = q * q
    numerator = -8.750608600031904122785e-1
    for c in (-1.615753718733365076637e1, -7.500855792314704667340e1,
              -1.228866684490136173410e2, -6.485021904942025371773e1):  # fmt: skip
        numerator = numerator * z + c
    denominator = 1.0
    for c in (2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2,
              4.853903996359136964868e2, 1.945506571482613964425e2):  # fmt: skip
        denominator = denominator * z + c
    angle = q + q * (z * numerator / denominator)
    angle = angle + np.pi / 4 if high else angle
    angle = np.pi / 2 - angle if y > abs(x) else angle
    return np.pi - angle if x < 0.0 else angle


@numba.njit(**OPTIONS)
def describe(address):
    """Both norms of every model; norm, gradient norm, effective rate and step angle of every group.

    They go to `totals` and to `parts`, (4, num_groups), if it is there; `scale` multiplies the
    gradients. See `reference.describe`.
    """
    job = array(address, (1,), JOB)[0]
    models = array(job.model_of_group, (job.num_groups,), INT32)
    theta_theta, theta_grad, grad_grad = array(job.sums, (3, job.num_groups), FP64)
    totals = array(job.totals, (2, job.num_models), FP64)
    totals[:] = 0.0
    for group in range(job.num_groups):
        model = models[group]
        factor = array(job.scale, (job.num_models,), FP64)[model] if job.scale else 1.0
        totals[0, model] += theta_theta[group]
        totals[1, model] += factor * factor * grad_grad[group]
    totals[:] = np.sqrt(totals)
    if job.parts == 0:
        return
    out = array(job.parts, (4, job.num_groups), FP64)
    for group in range(job.num_groups):
        model = models[group]
        factor = array(job.scale, (job.num_models,), FP64)[model] if job.scale else 1.0
        out[2, group] = array(job.eta, (job.num_groups,), FP64)[
            group if job.mode == PER_GROUP else model
        ]
        out[3, group] = factor
    for group in range(job.num_groups):
        norm, both, grad = theta_theta[group], theta_grad[group], grad_grad[group]
        eta, factor = out[2, group], out[3, group]
        # Lagrange's identity: the squared area that theta and the gradient span; NaN stays NaN.
        area = norm * grad - both * both
        area = 0.0 if area < 0.0 else area
        out[0, group] = np.sqrt(norm)
        out[1, group] = factor * np.sqrt(grad)
        out[2, group] = eta / norm
        step = eta * factor
        out[3, group] = _angle(step * np.sqrt(area), norm - step * both)
