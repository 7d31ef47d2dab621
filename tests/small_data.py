"""MNIST and CIFAR-10 of a few images, as files of the formats that the package reads."""

import gzip

import numpy as np

DIGITS = np.array([3, 1, 3, 0, 1, 3, 3, 0, 3, 1], dtype=np.uint8)
BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


def idx_bytes(array):
    """The IDX file of an array of unsigned bytes, written from the format's description."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.tobytes()


def images_of(digits):
    """One image a digit, told apart by its first pixel."""
    images = np.random.default_rng(1).integers(0, 256, (len(digits), 28, 28), dtype=np.uint8)
    images[:, 0, 0] = np.arange(len(digits))
    images[0, 0, 1], images[0, 0, 2] = 0, 255
    return images


def write_mnist(root, digits=DIGITS, compress=False):
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    files = {"images-idx3-ubyte": images_of(digits), "labels-idx1-ubyte": digits}
    for prefix in ("train", "t10k"):
        for name, array in files.items():
            content = idx_bytes(array)
            path = folder / f"{prefix}-{name}{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(content) if compress else content)
    return folder


def cifar_records(n, first=1, seed=0):
    """Labels and planes of pixels of n records of CIFAR-10's format."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) + first) % 10
    pixels = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    return labels, pixels


def write_cifar(root, original=False):
    """Twenty images a file; with ``original``, the first ones begin as the original files do."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number, name in enumerate(BATCHES):
        labels, pixels = cifar_records(20, number, seed=number)
        if original and number in (0, 5):
            labels[0] = (6, 3)[number == 5]
            pixels[0, 0, 0, :3] = ((59, 43, 50), (158, 159, 165))[number == 5]
        rows = [bytes([k]) + x.tobytes() for k, x in zip(labels, pixels, strict=True)]
        (folder / name).write_bytes(b"".join(rows))
    return folder
