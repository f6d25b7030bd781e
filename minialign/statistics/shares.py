"""Small statistics that results are shown with."""

import math


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share, (0, 1) for n = 0 (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def share_text(successes: float, n: int) -> str:
    """ "87.5 % (70/80, 95 % interval 78.5 to 93.1 %)"."""
    low, high = wilson(successes, n)
    share = successes / n if n else 0.0
    count = f"{successes:g}/{n}"
    return f"{100 * share:.1f} % ({count}, 95 % interval {100 * low:.1f} to {100 * high:.1f} %)"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share as "12.3"; "-" where there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}"
