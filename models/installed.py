"""Families of models that other packages bring, by the entry point `fedward.models`.

The code comes from whoever installs packages on this machine, never from a server: a study can only
name it. Nothing of a package is imported before its model is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple, get_args

from fedward.models.family import Family
from fedward.models.inputs import Kind
from fedward.study.early_stopping import METRICS
from fedward.study.errors import OptionError
from fedward.study.frozen import Frozen

GROUP = "fedward.models"
_KINDS, _TASKS = frozenset(get_args(Kind)), frozenset(METRICS)


@dataclass(frozen=True)
class Offered:
    """A family that an installed package offers, not yet loaded.

    Attributes:
        name: What a study calls it.
        package: Name and version of the package.
    """

    name: str
    package: str
    _point: EntryPoint

    def family(self) -> Family:
        """Load it.

        Raises:
            OptionError: The package is broken, or what it offers is no such family.
        """
        try:
            family = self._point.load()
        except Exception as error:  # whatever another's code does, others go on
            raise self._broken(f"{type(error).__name__}: {error}") from error
        if not isinstance(family, Family):
            raise self._broken(f"it is no Family but {type(family).__name__}")
        if family.name != self.name:
            raise self._broken(f"the family calls itself {family.name!r}")
        settings: object = family.settings
        if not (isinstance(settings, type) and issubclass(settings, Frozen)):
            raise self._broken("its settings are no Frozen")
        for what, given, known in (
            ("inputs", family.inputs, _KINDS),
            ("tasks", family.tasks, _TASKS),
        ):
            if not given or not known.issuperset(given):
                raise self._broken(f"its {what} are {given!r}, not of {', '.join(sorted(known))}")
        return family

    def _broken(self, why: str) -> OptionError:
        return OptionError(
            f"the model {self.name!r} of the installed package {self.package} cannot be used "
            f"({why})",
            todo="mend the package, or remove it",
        )


class Installed(NamedTuple):
    """What installed packages bring.

    Attributes:
        families: By name.
        refused: Why another name is not to be had.
    """

    families: dict[str, Offered]
    refused: dict[str, OptionError]


def installed(ours: Collection[str]) -> Installed:
    """What installed packages offer, as it is now.

    Args:
        ours: Names of Fedward's own families, which no package can take.
    """
    claims: dict[str, list[Offered]] = defaultdict(list)
    for point in entry_points(group=GROUP):
        claims[point.name].append(Offered(point.name, _package(point), point))
    families, refused = {}, {}
    for name, offers in sorted(claims.items()):
        if name not in ours and len(offers) == 1:
            families[name] = offers[0]
            continue
        others = "fedward itself" if name in ours else "another package"
        who = ", ".join(sorted(offer.package for offer in offers))
        refused[name] = OptionError(
            f"the model {name!r} of the installed package {who} is refused: {others} has that name",
            todo="remove the package, or have its model renamed",
        )
    return Installed(families, refused)


def _package(point: EntryPoint) -> str:
    return "of unknown name" if point.dist is None else f"{point.dist.name} {point.dist.version}"
