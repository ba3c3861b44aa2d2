"""What an API server's refusal to create an object means: whether waiting can heal it, and by whom.

A refusal is classified by its status code, its `reason` and the structure of its `details`. Texts are
compared at the fixed positions where the API server writes them, never searched: the names of objects,
namespaces, policies and quotas are parts of the messages, and people choose them. The shapes are those that a
kube-apiserver 1.36 answers; `tests/unit/kube/refusals.json` has them in full.
"""

from __future__ import annotations

from enum import Enum

from perdure.kube.errors import ApiError

#: The beginning of every denial by a webhook, before anything that the webhook itself says
#: (k8s.io/apiserver, `webhook/errors.ToStatusErr`).
_BY_WEBHOOK = "admission webhook "
#: The beginnings of what the plugin ResourceQuota says.
_BY_QUOTA = ("exceeded quota: ", "failed quota: ")
#: Answers 500 of an API server whose etcd, or whose client of it, refuses the object's size.
_TOO_LARGE = "etcdserver: request is too large"
_TOO_LARGE_TO_SEND = "rpc error: code = ResourceExhausted desc = trying to send message larger than max"
_NAMESPACE_TERMINATING = "NamespaceTerminating"


class RefusalKind(Enum):
    """The classes of refusals."""

    #: The object is at fault, or too large: no retry succeeds.
    INVALID = "invalid"
    #: A resource quota.
    QUOTA = "quota"
    #: The namespace is being deleted.
    TERMINATING = "terminating"
    #: An admission policy, a webhook, PodSecurity, a role, or something that the object refers to.
    DENIED = "denied"
    #: No answer, or none of substance: the API server, etcd or a webhook is away or overloaded.
    UNAVAILABLE = "unavailable"


def refusal_kind(error: ApiError) -> RefusalKind:
    """The class of the refusal of a create. An answer of no known shape may heal."""
    if not error.message.startswith(_BY_WEBHOOK) and (_is_invalid(error) or _is_too_large(error)):
        return RefusalKind.INVALID
    if error.transient:
        return RefusalKind.UNAVAILABLE
    if error.status == 403 and _own_words(error).startswith(_BY_QUOTA):
        return RefusalKind.QUOTA
    causes = () if error.details is None else error.details.causes
    if error.status == 403 and any(cause.reason == _NAMESPACE_TERMINATING for cause in causes):
        return RefusalKind.TERMINATING
    return RefusalKind.DENIED


def _is_invalid(error: ApiError) -> bool:
    """True if validation or decoding refused the object.

    A ValidatingAdmissionPolicy also answers 422 `Invalid` by default. Its causes name no field.
    """
    if error.status == 400:
        return error.reason == "BadRequest" and error.details is None
    if error.status != 422 or error.reason != "Invalid" or error.details is None:
        return False
    return bool(error.details.causes) and all(cause.field for cause in error.details.causes)


def _is_too_large(error: ApiError) -> bool:
    if error.details is not None:
        return False
    if error.status == 413:
        return error.reason == "RequestEntityTooLarge"
    return error.status == 500 and (
        error.message == _TOO_LARGE or error.message.startswith(_TOO_LARGE_TO_SEND)
    )


def _own_words(error: ApiError) -> str:
    """What an admission plugin says, without the resource and name that the API server puts before it."""
    if error.details is None:
        return error.message
    return error.message.removeprefix(f'{error.details.kind} "{error.details.name}" is forbidden: ')
