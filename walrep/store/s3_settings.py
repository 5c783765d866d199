"""From what a URL, a configuration file and the environment say to the settings of one S3 client.

The URL beats the file, and the file beats the environment. Two things are taken whole from the first that says
anything of them, because halves of different origin make no sense: the way (endpoint, provider) and the credentials
(profile, access key, token). Nobody said anything: then the client looks where the AWS tools do, in the environment,
~/.aws and the metadata of the machine.

    endpoint   as said with the way; else the preset's, with the region filled in; else the environment's; else AWS
    region     as said; else what the endpoint's host tells; else the preset's, which on a machine of AWS must not be
               beaten by the environment's; else that; for a server of no known provider the other way round

It opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from walrep.errors import UsageError
from walrep.store.providers import UNKNOWN, Provider, endpoint_for, find_provider, region_in_endpoint
from walrep.store.s3_url import S3Access, check_access

__all__ = ["S3Settings", "resolve_settings"]


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an S3 client is made from; those that are equal share one. "" leaves the choice to the client."""

    access: S3Access
    provider: Provider

    @property
    def shown_endpoint(self) -> str:
        """The endpoint, for messages."""
        return self.access.endpoint or f"AWS {self.access.region}".rstrip()


def resolve_settings(url: S3Access, environment: Mapping[str, str], defaults: S3Access | None = None) -> S3Settings:
    """Return the settings for what a URL says, on top of the defaults of a configuration file and the environment.

    Raises:
        UsageError: something is misspelt or contradicts itself, or the endpoint of the provider is not said.

    """
    said = (url, check_access(defaults or S3Access()))
    surroundings = _from_environment(environment)
    layers = (*said, surroundings)
    way = next((layer for layer in layers if layer.endpoint or layer.provider), S3Access())
    provider = find_provider(way.provider, way.endpoint)
    region = _first([layer.region for layer in said])
    endpoint = _endpoint(way, provider, region, layers)
    region = region or region_in_endpoint(provider, endpoint)
    fallbacks = [provider.region, surroundings.region]
    if provider is UNKNOWN:
        fallbacks.reverse()
    credentials = next((layer for layer in said if layer.profile or layer.access_key_id), S3Access())
    styles = [layer.path_style for layer in said if layer.path_style is not None]
    return S3Settings(
        provider=provider,
        access=S3Access(
            endpoint=endpoint,
            region=region or _first(fallbacks),
            # Said, and not guessed: then an endpoint in the files of the AWS tools is not meant.
            provider=way.provider,
            path_style=styles[0] if styles else provider.path_style,
            profile=credentials.profile,
            access_key_id=credentials.access_key_id,
            secret_access_key=credentials.secret_access_key,
            session_token=credentials.session_token,
            ca_file=_first([layer.ca_file for layer in layers]),
        ),
    )


def _endpoint(way: S3Access, provider: Provider, region: str, layers: Sequence[S3Access]) -> str:
    endpoint = way.endpoint or endpoint_for(provider, region)
    if endpoint or provider.name == "aws":
        return endpoint
    endpoint = _first([layer.endpoint for layer in layers])
    if not endpoint:
        missing = "region" if "{region}" in provider.endpoint else "endpoint"
        raise UsageError(
            f"the {missing} of the store is not said",
            detail=f"provider {provider.name}",
            hint=f"its endpoint is {provider.endpoint}; say endpoint=..." + (" or region=..." * (missing == "region")),
        )
    return endpoint


def _from_environment(environment: Mapping[str, str]) -> S3Access:
    """Return what walrep itself has to know; credentials are the client's to find, which also renews them."""
    # Like the AWS tools, the variable of the service before that of all services.
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    if environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        endpoint = ""
    try:
        return check_access(
            S3Access(
                endpoint=endpoint,
                region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "",
                ca_file=environment.get("AWS_CA_BUNDLE") or "",
            )
        )
    except UsageError as error:
        detail = f"AWS_ENDPOINT_URL: {error.detail}"
        raise UsageError(error.message, detail=detail, hint=error.hint) from error


def _first(texts: Sequence[str]) -> str:
    return next(filter(None, texts), "")
