"""A simulation on Ray, through Flower's own engine: for clusters, and to compare with.

Tested on flwr 1.41 with ray 2.55. Replies come in any order there, so sums may differ in the last
bits between two runs with one seed.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from flwr.app import Context

from fedward.client.app import make_app as make_hospital_app
from fedward.client.app import open_site
from fedward.client.site import Site
from fedward.server.app import Config
from fedward.server.app import make_app as make_server_app
from fedward.server.events import Listener
from fedward.study.errors import FedwardError, MissingExtra


def run_on_ray(config: Config, hospitals: Sequence[Path], listener: Listener) -> None:
    """Run the aggregator's app over the hospitals' app on Ray.

    Args:
        config: What the aggregator's app is told, see `fedward.server.app.make_app`.
        hospitals: `hospital.toml` files, on a file system that every node of the cluster sees.
        listener: Is told what happens.

    Raises:
        MissingExtra: Ray is not installed.
        FedwardError: Anything that keeps the study from finishing.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("ray is not installed", todo="pip install 'fedward[ray]'")
    from flwr.simulation import run_simulation  # half a second that only this engine needs

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray itself advises
    paths = [str(path.resolve()) for path in hospitals]

    def site_of(context: Context) -> Site:
        return open_site(Path(paths[int(str(context.node_config["partition-id"]))]))

    try:
        run_simulation(
            server_app=make_server_app(listener, config),
            client_app=make_hospital_app(site_of),
            num_supernodes=len(paths),
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {"log_to_driver": False, "logging_level": "error"},
            },
        )
    except RuntimeError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, FedwardError):
            raise cause from None
        raise
