"""What a user writes for a bucket: `s3://bucket/prefix?parameter=value&...`. It opens nothing.

    endpoint           https://host[:port][/path]; AWS without
    region             by which requests are signed
    provider           a preset of walrep.store.providers; else the endpoint's host tells
    path-style         true: the bucket stands in the path; false: in the host name
    profile            of ~/.aws/config
    access-key-id, secret-access-key, session-token
    ca-file            certificates to trust, as PEM
    storage-class      for every object
    sse                AES256 or aws:kms
    sse-kms-key-id     with aws:kms

Values are percent-encoded; a `+` is a plus, since the secrets of AWS contain it. What is said twice, without a value
or unknown is an error. `str()` and `repr()` of what is parsed do not show secrets.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import msgspec

from walrep.errors import UsageError
from walrep.store.keys import KEY_CHARACTERS_MAX, key_problem
from walrep.store.providers import PROVIDERS

__all__ = ["HIDDEN", "PREFIX_CHARACTERS_MAX", "S3Access", "S3Url", "check_access", "parse_s3_url"]

PREFIX_CHARACTERS_MAX = KEY_CHARACTERS_MAX - 1
"""With a slash and the longest key of a replica they are the 1,024 bytes that S3 allows."""

HIDDEN = "***"
"""What stands for a secret where one is not shown."""

_SECRETS = ("secret_access_key", "session_token")
_FORM = "write s3://BUCKET/PREFIX, with parameters as in s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_BUCKET_RULES = "a bucket has 3 to 63 lower-case letters, digits, dots and hyphens, and begins and ends with no dot"
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
_STORAGE_CLASS = re.compile(r"[A-Z0-9_-]{1,64}")
_ENCRYPTIONS = ("AES256", "aws:kms")
# Their objects cannot be read before somebody has had them restored, which takes hours.
_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
_WORDS = {"true": True, "false": False}


class S3Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Where buckets are and who asks for them; "" and None: not said. A URL has one, and a configuration file."""

    endpoint: str = ""
    region: str = ""
    provider: str = ""
    path_style: bool | None = None
    profile: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""
    ca_file: str = ""

    def __repr__(self) -> str:
        return f"S3Access({', '.join(f'{name}={value}' for name, value in _said(self).items())})"


class S3Url(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """A place in a bucket. As text it is canonical, and shows `***` for secrets."""

    bucket: str
    prefix: str = ""
    access: S3Access = S3Access()
    storage_class: str = ""
    sse: str = ""
    sse_kms_key_id: str = ""

    @property
    def place(self) -> str:
        """The place without the way to it: two URLs for the same one have it in common."""
        at = f"?endpoint={quote(self.access.endpoint, safe='/:[]')}" if self.access.endpoint else ""
        return f"s3://{self.bucket}{'/' if self.prefix else ''}{self.prefix}{at}"

    def __str__(self) -> str:
        parameters = _said(self.access) | _said(self)
        texts = (f"{name}={quote(value, safe='/:[]*')}" for name, value in parameters.items() if name in _PARAMETERS)
        query = "&".join(texts)
        return f"s3://{self.bucket}{'/' if self.prefix else ''}{self.prefix}{'?' if query else ''}{query}"

    def __repr__(self) -> str:
        return f"S3Url({self})"


_OWN_FIELDS = {name.replace("_", "-"): name for name in ("storage_class", "sse", "sse_kms_key_id")}
_ACCESS_FIELDS = {field.encode_name: field.name for field in msgspec.structs.fields(S3Access)}
_PARAMETERS = _ACCESS_FIELDS | _OWN_FIELDS


def parse_s3_url(text: str) -> S3Url:
    """Parse what follows `s3:` of a URL.

    Raises:
        UsageError: it is not a place in a bucket; neither message nor hint shows a secret.

    """
    place, _, query = text.partition("?")
    shown = _shown(place)
    if not place.startswith("//"):
        raise UsageError("an S3 URL begins with two slashes", detail=shown, hint=_FORM)
    if "#" in text:
        raise UsageError("an S3 URL has no fragment", detail=shown, hint="write %23 for a # in a value")
    if "&" in place or "=" in place:
        raise UsageError("the parameters of a URL begin with a question mark", detail=shown, hint=_FORM)
    bucket, _, path = place[2:].partition("/")
    _check_bucket(bucket, path, shown)
    prefix = unquote(path).removesuffix("/")
    _check_prefix(prefix, shown)
    values = _parse_query(query, shown)
    access = {_ACCESS_FIELDS[name]: value for name, value in values.items() if name in _ACCESS_FIELDS}
    own = {_OWN_FIELDS[name]: value for name, value in values.items() if name in _OWN_FIELDS}
    try:
        url = S3Url(bucket=bucket, prefix=prefix, access=check_access(_access(access)), **own)
        _check_objects(url)
    except UsageError as error:
        detail = f"{shown}: {error.detail}" if error.detail else shown
        raise UsageError(error.message, detail=detail, hint=error.hint) from error
    return url


def check_access(access: S3Access) -> S3Access:
    """Return the same in its canonical form.

    Raises:
        UsageError: it is misspelt, or contradicts itself.

    """
    if access.provider and access.provider not in PROVIDERS:
        raise UsageError(
            "the provider is not known",
            detail=access.provider,
            hint=_did_you_mean(access.provider.lower(), list(PROVIDERS)) + "; any server works with an endpoint alone",
        )
    if access.profile and access.access_key_id:
        raise UsageError("a profile and an access key are two answers to one question", hint="leave one of them out")
    if bool(access.access_key_id) != bool(access.secret_access_key):
        raise UsageError(
            "an access key has two halves and one is missing",
            hint="say access-key-id and secret-access-key, or neither",
        )
    if access.session_token and not access.access_key_id:
        raise UsageError("a session token belongs to an access key", hint="say access-key-id and secret-access-key too")
    if HIDDEN in (access.secret_access_key, access.session_token):
        raise UsageError(
            "*** stands for a secret that is not shown", hint="write the secret itself, or leave it to the environment"
        )
    return msgspec.structs.replace(
        access,
        endpoint=_canonical_endpoint(access.endpoint) if access.endpoint else "",
        ca_file=str(Path(access.ca_file).expanduser().absolute()) if access.ca_file else "",
    )


def _access(values: dict[str, str]) -> S3Access:
    style = values.pop("path_style", None)
    if style is not None and style not in _WORDS:
        raise UsageError("path-style is true or false", detail=style)
    return S3Access(**values, path_style=None if style is None else _WORDS[style])


def _parse_query(query: str, shown: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in _PARAMETERS:
            raise UsageError(
                "the URL has a parameter that does not exist",
                # Without its value: it may be a secret under a misspelt name.
                detail=f"{shown}: {name}",
                hint=_did_you_mean(name.replace("_", "-").lower(), list(_PARAMETERS)),
            )
        if name in values:
            raise UsageError("the URL says a parameter twice", detail=f"{shown}: {name}")
        if not value:
            raise UsageError("the URL has a parameter without a value", detail=f"{shown}: {name}")
        values[name] = unquote(value)
    return values


def _check_bucket(bucket: str, path: str, shown: str) -> None:
    hint = f"{_BUCKET_RULES}; {_FORM}"
    if "@" in bucket:
        raise UsageError(
            "an S3 URL has no user and password",
            detail=shown,
            hint="say access-key-id and secret-access-key as parameters, or better in the environment",
        )
    if not bucket:
        raise UsageError("the URL names no bucket", detail=shown, hint=_FORM)
    if ":" in bucket or bucket == "localhost" or bucket.endswith(".amazonaws.com"):
        real = path.partition("/")[0] or "BUCKET"
        raise UsageError(
            f"{bucket!r} is the host of an endpoint, not a bucket",
            detail=shown,
            hint=f"the bucket comes first: s3://{real}/PREFIX?endpoint=https://{bucket}",
        )
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _ADDRESS.fullmatch(bucket):
        raise UsageError("this cannot be the name of a bucket", detail=shown, hint=hint)
    if bucket.endswith("--x-s3"):
        raise UsageError(
            "a directory bucket (S3 Express One Zone) cannot hold a replica",
            detail=shown,
            hint="its listings have no order; use a general purpose bucket",
        )


def _check_prefix(prefix: str, shown: str) -> None:
    problem = key_problem(prefix) if prefix else ""
    if not problem and len(prefix) > PREFIX_CHARACTERS_MAX:
        problem = f"it has more than {PREFIX_CHARACTERS_MAX} characters"
    if problem:
        raise UsageError(
            "this cannot be a prefix of keys",
            detail=f"{shown}: {problem}",
            hint="use letters, digits, dots, hyphens and underscores between single slashes",
        )


def _check_objects(url: S3Url) -> None:
    """Hold against the rules what is said of the objects themselves."""
    if url.storage_class in _ARCHIVES:
        raise UsageError(
            "objects of this storage class cannot be read at once",
            detail=url.storage_class,
            hint="leave it out, or use STANDARD_IA or GLACIER_IR; a replica is read when it is compacted or restored",
        )
    if url.storage_class and not _STORAGE_CLASS.fullmatch(url.storage_class):
        raise UsageError("a storage class is written like STANDARD_IA", detail=url.storage_class)
    if url.sse and url.sse not in _ENCRYPTIONS:
        raise UsageError("sse is AES256 or aws:kms", detail=url.sse, hint=_did_you_mean(url.sse, list(_ENCRYPTIONS)))
    if url.sse_kms_key_id and url.sse != "aws:kms":
        raise UsageError("sse-kms-key-id needs sse=aws:kms")


def _canonical_endpoint(text: str) -> str:
    hint = "write https://HOST, with :PORT if it is not the usual one"
    if "@" in text:
        raise UsageError("an endpoint has no user and password", hint="say access-key-id and secret-access-key")
    try:
        parts = urlsplit(text)
        is_place = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise UsageError("the endpoint is not a URL", detail=str(error), hint=hint) from error
    if not is_place or any(character.isspace() for character in text):
        raise UsageError("the endpoint is not the URL of a host", detail=text, hint=hint)
    if parts.query or parts.fragment:
        raise UsageError("an endpoint has no parameters", detail=text, hint=hint)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _said(struct: msgspec.Struct) -> dict[str, str]:
    """Return what was said, by the name of its parameter, with secrets hidden."""
    texts: dict[str, str] = {}
    for field in msgspec.structs.fields(type(struct)):
        value = getattr(struct, field.name)
        if field.name in _SECRETS and value:
            texts[field.encode_name] = HIDDEN
        elif isinstance(value, bool):
            texts[field.encode_name] = str(value).lower()
        elif isinstance(value, str) and value:
            texts[field.encode_name] = value
    return texts


def _did_you_mean(text: str, known: list[str]) -> str:
    near = difflib.get_close_matches(text, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there is {', '.join(known)}"


def _shown(place: str) -> str:
    """Return what stands before the parameters, without a password, or parameters that stand there by mistake."""
    return "s3:" + re.split("[&=]", re.sub(r"//.*@", f"//{HIDDEN}@", place))[0]
