"""Make the records of long runs: ``python -m ntklc_helpers.experiments NAME --output … …``.

NAME is a record, or a chapter for all of its records. Stopped at any time and called again, a run
goes on from what it kept under the output folder. Called with other settings on the same folder it
refuses, and writes nothing.
"""

import sys
from functools import partial

from . import (
    allocations,
    command,
    conv_machine,
    conversions,
    convolutions,
    forecasts,
    kernel_machine,
    objectives,
    patches,
    pruning_criteria,
    pruning_sweep,
    published_kernels,
    published_programs,
    readouts,
    trained_networks,
    training_curves,
)

RECORDS: command.Records = {
    "allocation": allocations.PRESETS,
    "conversions": conversions.PRESETS,
    "convolutions": convolutions.PRESETS,
    "kernel_machine": kernel_machine.PRESETS,
    "objectives": objectives.PRESETS,
    "pruning_criteria": pruning_criteria.PRESETS,
    "published_kernels": published_kernels.PRESETS,
    "published_programs": published_programs.PRESETS,
    **conv_machine.PRESETS,
    **patches.PRESETS,
    **readouts.PRESETS,
    **pruning_sweep.PRESETS,
    **forecasts.PRESETS,
    **trained_networks.PRESETS,
    **training_curves.PRESETS,
}
CHAPTERS = {
    "04_ck_theory_vs_simulation": ["published_kernels"],
    "05_ntk_theory_vs_simulation": ["published_kernels"],
    "12_accuracy_before_training": [
        "forecast_mnist",
        "forecast_cifar10",
        "objectives",
        "allocation",
        "kernel_machine",
    ],
    "13_training": [*training_curves.PRESETS],
    "14_mnist": ["trained_mnist_conv", "trained_mnist_connected", "trained_mnist_pruned"],
    "15_cifar10": [*readouts.PRESETS, "trained_cifar10_70kb", "trained_cifar10_150kb"],
    "16_convolutions": ["convolutions", *patches.PRESETS, *conv_machine.PRESETS],
    "18_random_pruning": [*pruning_sweep.PRESETS, "pruning_criteria"],
    "21_slips": ["published_programs"],
}

main = partial(command.main, RECORDS, CHAPTERS, __doc__.partition("\n\n")[0])

if __name__ == "__main__":
    sys.exit(main())
