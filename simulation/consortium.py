"""A consortium of pretended hospitals: every one gets a real identity and a signed roster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedward.client.hospital import Consortium, read_hospital, write_hospital
from fedward.privacy.identity import Identity
from fedward.privacy.roster import Roster, sign_roster
from fedward.study.errors import OptionError

_ROSTER = "roster.json"
_IDENTITY = "identity.pem"


def found_consortium(hospitals: Sequence[Path]) -> Identity:
    """Make hospitals members of a new consortium.

    Args:
        hospitals: Their `hospital.toml` files, in folders beside each other; each is written anew.

    Returns:
        Its coordinator, whom a simulation forgets.

    Raises:
        OptionError: Two hospitals have the same name.
    """
    files = {path: read_hospital(path) for path in hospitals}
    names = Counter(hospital.name for hospital in files.values())
    if twice := [name for name, count in names.items() if count > 1]:
        raise OptionError(
            f"two hospitals are called {min(twice)!r}", todo="give every hospital its own name"
        )
    coordinator = Identity.generate()
    members = {}
    for path, hospital in files.items():
        identity = Identity.generate()
        identity.save(path.with_name(_IDENTITY))
        members[hospital.name] = identity.public
    roster = hospitals[0].parent.parent / _ROSTER
    roster.write_bytes(sign_roster(Roster(1, members), coordinator))
    consortium = Consortium(
        roster=f"../{_ROSTER}", coordinator=coordinator.public.hex(), identity=_IDENTITY
    )
    for path, hospital in files.items():
        write_hospital(hospital.model_copy(update={"consortium": consortium}), path)
    return coordinator
