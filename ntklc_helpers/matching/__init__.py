"""Few levels, same kernel: staircases that keep the coefficients, and proofs where none can."""

from .._face import promised as _promised
from .bounds import linear_share_bound, quadratic_frontier
from .certificates import Certificate
from .match import Matching, MatchingError, match
from .paper import sigma_q_solution, sigma_t_solutions

__all__ = _promised(vars())
