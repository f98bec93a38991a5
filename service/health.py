"""Whether the process lives, whether it may be sent requests, and whether its database login is one that may serve."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from hmac import compare_digest

import msgspec
from litestar import get

from service.database_url import is_loopback_address
from service.db.caller import Caller
from service.db.database import Database
from service.db.migration_files import known_objects
from service.db.queries import Many, One
from service.http.metrics import CONTENT_TYPE
from service.http.request import Request
from service.identity.tokens import Tokens
from service.problems import Problem, StartupError
from service.settings import Secret

log = logging.getLogger(__name__)

READY_SECONDS = 1.0
"""How long readiness waits for the database."""


class Health(msgspec.Struct, frozen=True):
    """The answer of a check that passed."""

    status: str


class LoginCheck(msgspec.Struct, frozen=True):
    """What the database says about the service's login."""

    login: str
    is_migrated: bool
    has_plan_settings: bool
    """Whether queries are planned as they were tested: see ROLE_DEFAULTS in service/commands/logins.py."""
    has_letters: bool
    """Whether more letters than those of ASCII have upper and lower case."""
    is_superuser: bool
    bypasses_row_security: bool
    may_create_temporary_tables: bool
    owned_tables: list[str]
    unprotected_tables: list[str]
    """Tables of todochat's that would show a user other users' rows."""
    may_read: bool
    """Whether the login has todochat_app's privileges, and those were not lost."""


class Misowned(msgspec.Struct, frozen=True):
    """What another role than todochat_owner owns of what the migrations make."""

    kind: str
    name: str
    owner: str


_check_login = One("check_login", LoginCheck)
_list_misowned = Many("list_misowned", Misowned)
_list_applied_migrations = Many("list_applied_migrations", str)

_OK = Health("ok")
_FORWARDED = (b"x-forwarded-for", b"forwarded", b"via", b"x-real-ip")


class Readiness:
    """Decides about GET /health/ready. ``known_migrations`` are the names of the files this release came with."""

    def __init__(self, draining: asyncio.Event, known_migrations: Collection[str]) -> None:
        self._draining = draining
        self._known = frozenset(known_migrations)
        self._question: asyncio.Task[list[str] | Problem] | None = None

    async def check(self, caller: Caller) -> None:
        """Raises ``overloaded`` while the service is shutting down, ``database_unavailable`` with the reason otherwise.

        However many ask at once, the database is asked by one of them. That one takes a connection from the pool like
        any request, in turn: when all connections stay in use for a second, readiness turns red, although the database
        may be well, because a user's request wouldn't be answered sooner. Liveness stays green then.
        """
        if self._draining.is_set():
            raise Problem("overloaded", "The service is shutting down.")
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(_ask(caller))
        try:
            async with asyncio.timeout(READY_SECONDS):
                applied = await asyncio.shield(self._question)
        except TimeoutError:
            raise Problem("database_unavailable", "The database does not answer.") from None
        if isinstance(applied, Problem):
            raise Problem("database_unavailable", _REASONS.get(applied.code, _REASONS["database_unavailable"]))
        if pending := _pending(self._known, applied):
            raise Problem("database_unavailable", f"{pending}.")


def _pending(known: frozenset[str], applied: list[str]) -> str:
    """Which migrations are pending, in words; empty when none is."""
    names = sorted(known.difference(applied))
    count = "1 migration is" if len(names) == 1 else f"{len(names)} migrations are"
    return f"{count} pending: {', '.join(names)}" if names else ""


_REASONS = {
    "database_unavailable": "The database does not answer.",
    "overloaded": "No database connection came free in time.",
    "internal": "The list of applied migrations can't be read: run `todochat migrate`.",
}


async def _ask(caller: Caller) -> list[str] | Problem:
    try:
        return await caller.run(_list_applied_migrations())
    except Problem as problem:
        return problem


@get("/health/live", public=True)
async def get_live() -> Health:
    """The process answers. Never touches the database."""
    return _OK


@get("/health/ready", public=True)
async def get_ready(request: Request) -> Health:
    """The process may be sent requests: the database answers, no migration is pending, and it isn't shutting down."""
    readiness: Readiness = request.app.state.readiness
    await readiness.check(request.user)
    return _OK


@get("/metrics", public=True, media_type=CONTENT_TYPE, problems=("unauthenticated",))
async def get_metrics(request: Request) -> str:
    """What Prometheus reads, with METRICS_TOKEN.

    Where none is set, this machine may read it, and whoever sends a local account's access token.
    """
    state = request.app.state
    tokens: Tokens | None = state.tokens
    is_access: Callable[[str], bool] = tokens.is_access if tokens else lambda _: False
    if not may_read_metrics(state.settings.metrics_token, request.address, request.sent, is_access):
        raise Problem(
            "unauthenticated",
            "Send Authorization: Bearer and METRICS_TOKEN; where none is set, a local account's access token.",
        )
    passing = request.scope["state"]
    if "connection" in passing:  # so that of a crowd few share what is rendered; they take turns again to send it
        await passing["connection"].turn_to_answer(passing["at_once"])
    return (await state.metrics.render_soon()).decode()


def may_read_metrics(
    token: Secret | None, remote: str | None, sent: Mapping[bytes, bytes], is_access_token: Callable[[str], bool]
) -> bool:
    """Whether a request with these headers may read the metrics.

    Yes with METRICS_TOKEN (``token``) as its bearer token, where one is set, and with nothing else. Otherwise with any
    valid access token of a local account, or from a direct peer on this machine: ``remote`` is a loopback address and
    no header says that a proxy stands between. A page of another origin never may, whatever it sends: its browser says
    ``Origin``.
    """
    if b"origin" in sent:
        return False
    if token is None and is_loopback_address(remote or "") and sent.keys().isdisjoint(_FORWARDED):
        return True
    scheme, _, bearer = sent.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer":
        return False
    if token is not None:
        return compare_digest(bearer.strip(), token.value.strip().encode())
    return bearer.isascii() and is_access_token(bearer.decode().strip())


async def refuse_unsafe_login(database: Database) -> None:
    """Raises StartupError unless row security binds the login that DATABASE_URL names."""
    list_misowned = _list_misowned(**msgspec.structs.asdict(known_objects()))
    found, misowned = await Caller(database, "startup").run(_check_login(), list_misowned)
    if not found.is_migrated:
        raise StartupError("the database has no tables yet: run `todochat migrate`")
    reasons = login_faults(found)
    if reasons:
        log.error("unsafe_login", extra={"login": found.login, "reasons": reasons})
        raise StartupError(
            f"the database login {found.login!r} is not safe to serve with: it {'; it '.join(reasons)}. "
            "Make a proper one with `todochat create-login NAME` and put it into DATABASE_URL"
        )
    if not found.may_read:
        raise StartupError(
            f"the database login {found.login!r} may not read the tables: make one with `todochat create-login`. If "
            "that did make it, the tables were restored before the roles, and lost their privileges: restore them "
            "anew, into an empty database, with `todochat restore`"
        )
    if not found.has_plan_settings:
        sets = "; ".join(f'ALTER ROLE "{found.login}" SET {name} = off' for name in ("enable_sort", "jit"))
        hint = f"lists read all that a user has: run `{sets}`, and restart the service"
        log.warning("login_without_plan_settings", extra={"login": found.login, "hint": hint})
    if not found.has_letters:
        hint = "searches tell Ä from ä: its LC_CTYPE is C, which a new one made with LC_CTYPE 'C.UTF-8' isn't"
        log.warning("database_of_ascii_letters", extra={"hint": hint})
    if found.unprotected_tables:
        raise StartupError(
            f"row security is not enabled and forced, with a policy, on: {', '.join(found.unprotected_tables)}. "
            "Run `todochat migrate`; if it finds nothing to do, put back what the migrations say"
        )
    if misowned:
        raise StartupError(
            f"todochat_owner must own {_some([each.name for each in misowned])} and does not, as after a restore by "
            "hand: run `todochat migrate`, which gives them back"
        )


def login_faults(found: LoginCheck) -> list[str]:
    """What the login is or may do that a service's login must not."""
    if found.is_superuser:
        return ["is a superuser, or may become one"]
    faults: list[str] = []
    if found.bypasses_row_security:
        faults.append("bypasses row security, or may become a role that does")
    if found.owned_tables:
        faults.append(f"owns tables or belongs to their owner ({_some(found.owned_tables)})")
    if found.may_create_temporary_tables:
        faults.append("may create temporary tables")
    return faults


async def refuse_pending_migrations(database: Database, known: Collection[str]) -> None:
    """Raises StartupError where a migration of this release isn't applied yet."""
    applied = await Caller(database, "startup").run(_list_applied_migrations())
    if pending := _pending(frozenset(known), applied):
        raise StartupError(f"{pending}: run `todochat migrate` first")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
