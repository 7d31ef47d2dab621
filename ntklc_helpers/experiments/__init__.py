"""What chapters run for long: resumable, recorded; each module is imported by those who want it.

Nothing is imported here, so that a chapter depends on the modules it uses and on no other.
"""

__all__ = [
    "forecasts",
    "image_nets",
    "images",
    "ledger",
    "methods",
    "pruning_sweep",
    "readouts",
    "records",
    "runs",
]
