"""TLS to the gateway: which certificates the SDK trusts."""

from __future__ import annotations

import ssl

from perdure_agent._environment import Environment


def context_for(environment: Environment) -> ssl.SSLContext | None:
    """The TLS context for the environment's gateway; None for a gateway without TLS.

    With `PERDURE_CA_FILE` the certificates of that file are trusted and no others: the gateway's certificate
    is most often signed by an authority of the cluster's own. Raises ValueError for an unusable file.
    """
    url = environment.gateway_url
    if url is None or not url.startswith("https://"):
        return None
    try:
        return ssl.create_default_context(cafile=environment.ca_file)
    except OSError as error:
        raise ValueError(
            f"PERDURE_CA_FILE names {environment.ca_file}, which is no bundle of PEM certificates: {error}"
        ) from error
