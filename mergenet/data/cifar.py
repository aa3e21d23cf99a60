"""What is known of CIFAR-10 and CIFAR-100 (Krizhevsky 2009), whatever files they come in."""

from dataclasses import dataclass

from mergenet.data.pixels import Size

SIZE: Size = (3, 32, 32)


@dataclass(frozen=True)
class Cifar:
    """One of the two.

    Attributes:
        name: of the data set here.
        names: of its classes, in the order of their labels.
        mean, deviation: of the channels (of 255) over the training images, as everyone uses them.
        column: of the labels in Parquet.
    """

    name: str
    names: tuple[str, ...]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    column: str


CIFAR10 = Cifar(
    name="cifar10",
    names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    deviation=(0.2470, 0.2435, 0.2616),
    column="label",
)

FINE_LABELS = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple
motorcycle mountain mouse mushroom oak orange orchid otter palm pear pickup_truck pine plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe
whale willow wolf woman worm
"""

CIFAR100 = Cifar(
    name="cifar100",
    names=tuple(FINE_LABELS.split()),
    mean=(0.5071, 0.4865, 0.4409),
    deviation=(0.2673, 0.2564, 0.2762),
    column="fine_label",
)

CIFARS = {cifar.name: cifar for cifar in (CIFAR10, CIFAR100)}


def find_cifar(name: str, names: tuple[str, ...], classes: int, size: Size) -> Cifar | None:
    """The one that a data set is, if it is one: by its own name, or by the names of its classes where it has them."""
    for cifar in CIFARS.values():
        known = len(cifar.names)
        named = name == cifar.name and classes <= known and len(names) in (0, known)
        if size == SIZE and (named or names == cifar.names):
            return cifar
    return None
