"""What a user's own module may hold: agents import it by its name."""

from bptcnn.networks import Network


class Mine(Network):
    """A network with something large of the user's in it."""

    table: object = None


def fail() -> None:
    raise RuntimeError("this table\nis of another machine")


class Unreadable:
    """Pickles well; fails where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return fail, ()
