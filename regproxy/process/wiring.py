"""Build the object graph of a worker."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Final

from msgspec import Struct
from prometheus_client import CollectorRegistry

from regproxy.auth.authorizer import Authorizer
from regproxy.auth.token_realms import Realms
from regproxy.cache import eviction, layout
from regproxy.cache.blobs import Store
from regproxy.cache.index.attestations import Attestations
from regproxy.cache.index.index import Index
from regproxy.config.directories import Directories
from regproxy.config.key_files import read_keys
from regproxy.config.settings import Config
from regproxy.core.secret_file import shared_key
from regproxy.dataplane import tls
from regproxy.dataplane.board import Board
from regproxy.dataplane.inotify import Watch
from regproxy.dataplane.reactor import Reactor
from regproxy.dataplane.records_self_test import records_fault
from regproxy.dataplane.request_ids import RequestIds
from regproxy.fill.fills import Fills
from regproxy.fill.origin_bodies import CHANCES, FillLimits
from regproxy.fill.provenance import Provenance
from regproxy.policy.access import Access
from regproxy.policy.interception import Interception
from regproxy.policy.mirror_mode import MirrorMode
from regproxy.policy.origins import Origins
from regproxy.policy.plans import Policy
from regproxy.process.boot import Record
from regproxy.server.audit import Audit
from regproxy.server.clients import clients
from regproxy.server.context import Services, Tracer
from regproxy.server.lookup import Lookup
from regproxy.server.repeats import Repeats, repeats
from regproxy.server.rights import Rights
from regproxy.server.routes import PlainRoutes, Routes
from regproxy.server.setup_pages import SetupPages
from regproxy.server.signature_checks import SignatureChecks
from regproxy.tags.claim_files import FileClaims
from regproxy.tags.resolver import Tags
from regproxy.tags.rows import Moved
from regproxy.telemetry.access_log import AccessLog
from regproxy.telemetry.audit_events import Teller
from regproxy.telemetry.live_events import LiveEvents
from regproxy.telemetry.log_sink import LineSink, unwritable
from regproxy.telemetry.metrics import Metrics
from regproxy.telemetry.usage.recorder import Recorder
from regproxy.telemetry.usage.usage_file import UsageFile
from regproxy.tls.authority import Authority, throwaway
from regproxy.tls.ca_files import files_of, load
from regproxy.tls.ca_watch import CaWatch
from regproxy.tls.client_contexts import Trust
from regproxy.tls.ktls import kernel_tls
from regproxy.tls.server_contexts import Contexts
from regproxy.tracing import environment
from regproxy.upstream.admission import Gate
from regproxy.upstream.circuit_breaker import Breakers
from regproxy.upstream.client import Upstream
from regproxy.upstream.connections.dialer import Dialer
from regproxy.upstream.quota_file import QuotaFile
from regproxy.upstream.quotas import Quotas

log = logging.getLogger("regproxy.process.worker")  # its parts are the worker's

_MARGIN: Final = 30.0  # seconds by which a filler in another process may be late


class _Base(Struct, frozen=True):
    """What the parts of a worker are built on. `root`: of the cache."""

    config: Config
    origins: Origins
    interception: Interception
    root: Path
    record: Record
    loop: asyncio.AbstractEventLoop
    reactor: Reactor
    metrics: Metrics
    board: Board
    own_records: bool


def build(
    config: Config, directories: Directories, record: Record, loop: asyncio.AbstractEventLoop
) -> Services:
    """Return the services that a worker's sessions share. Raises RegproxyError if one can't be opened."""
    root = directories.cache
    base = _base(config, root, record, loop)
    board = base.board
    policy = Policy(config, lambda: board.offline)
    reactor, metrics = base.reactor, base.metrics
    authority, ca_watch = _authority(config, directories)
    store, index = _storage(base)
    quotas = Quotas(QuotaFile(layout.quotas(root)), config.quota_reserve, metrics, later=base.loop.call_later)
    upstream = _upstream(base, quotas)
    access_rules, attestations = Access(config, base.origins), Attestations(index)
    provenance = Provenance(index, access_rules.is_shared, guarded=access_rules.guarded)
    events = LiveEvents()
    usage = Recorder(UsageFile(layout.usage(root)), metrics, time.time, events.tag_moved)
    fills, tags = _fills_and_tags(base, store, index, upstream, provenance, usage.tag_moved)
    access, audit = _access_log(config), _audit(config, record, loop)
    ids = RequestIds()
    again = _repeats(base, index, access, usage, ids, access_rules.guarded) if audit is None else None
    tracer = _tracer(record.slot)
    optional = (each for each in (audit, again, tracer) if each is not None)
    for source in (reactor, fills, authority, access, *optional):
        metrics.watch(source)
    return Services(
        config=config,
        policy=policy,
        interception=base.interception,
        reactor=reactor,
        store=store,
        index=index,
        lookup=Lookup(store, index, quotas.stretch, config.allow_push, provenance),
        routes=Routes(policy, config.ignored_headers),
        plain_routes=PlainRoutes(policy, config.ignored_headers, MirrorMode(config)),
        fills=fills,
        tags=tags,
        upstream=upstream,
        contexts=_contexts(base, authority),
        metrics=metrics,
        access=access,
        usage=usage,
        rights=Rights(access_rules, attestations, shared_key(layout.access_key(root))),
        signatures=SignatureChecks(
            upstream, read_keys(config.signing_keys), attestations, offline=lambda: policy.offline
        ),
        pages=SetupPages(authority.certificate_pem, config.listen.port, config.mirrored),
        authority=authority,
        ca_watch=ca_watch,
        loop=loop,
        ids=ids,
        clients=clients(config),
        closes=config.keepalive_timeout == 0,
        stretch=quotas.stretch,
        board=board,
        events=events,
        audit=audit,
        repeats=again,
        tracer=tracer,
    )


def _base(config: Config, root: Path, record: Record, loop: asyncio.AbstractEventLoop) -> _Base:
    origins, interception, reactor = Origins(config), Interception(config), Reactor(loop, record.debug)
    metrics, board = Metrics(CollectorRegistry()), Board(record.board)
    return _Base(
        config, origins, interception, root, record, loop, reactor, metrics, board, own_records(config)
    )


def _authority(config: Config, directories: Directories) -> tuple[Authority, CaWatch]:
    files = files_of(config, directories.ca_crt, directories.ca_key)
    return Authority(load(files, time.time()), time.time), CaWatch(files)


def _repeats(
    base: _Base, index: Index, access: AccessLog, usage: Recorder, ids: RequestIds, guarded: bool
) -> Repeats | None:
    return repeats(base.config, base.board, index, base.metrics, access, usage, guarded, ids)


def _storage(base: _Base) -> tuple[Store, Index]:
    board = base.board
    store = Store(base.root, base.loop, board=board, counters=base.metrics)
    index = Index.open(layout.index(base.root), board=board, commits_fd=base.record.commits)
    # Content that another process removes is forgotten here, before any is served.
    store.on_change = index.sync
    index.on_removed, index.on_forget_all = store.forget, store.forget_all
    return store, index


def _upstream(base: _Base, quotas: Quotas) -> Upstream:
    config, origins, metrics = base.config, base.origins, base.metrics
    trust = Trust(config, opens=base.own_records)
    dialer = Dialer(config, origins, base.interception, trust, base.reactor, base.loop, metrics)
    realms = Realms(layout.realms(base.root))
    return Upstream(
        *(dialer, origins, Gate(Breakers(metrics), quotas), metrics),
        lambda exchange: Authorizer(config, exchange, origins=origins, counter=metrics, realms=realms),
        config.first_byte_timeout,
        # Where clients push, what a mirror has says nothing of what the registry has.
        heads_itself=config.allow_push,
    )


def _fills_and_tags(
    base: _Base, store: Store, index: Index, upstream: Upstream, provenance: Provenance, moved: Moved
) -> tuple[Fills, Tags]:
    config, root, loop, watch = base.config, base.root, base.loop, _watch(base.reactor)
    most = config.cache_max_size
    fills = Fills(
        *(store, upstream, index, base.metrics, loop),
        # Eviction goes down to 90 %: content nearly as large as the cache would go at once, with much else.
        largest=most // 2,
        fits=lambda total, part: eviction.fits(root, most, total, time.time(), besides=part),
        patience=2 * base.origins.patience + config.resume_time + _MARGIN,
        limits=FillLimits(
            *(config.fill_streams, config.resume_time, config.min_rate, config.min_rate_time),
            chances=CHANCES if config.resume_time else 0,
        ),
        watch=watch,
        provenance=provenance,
    )
    claims = FileClaims(layout.tag_claims(root), bytes.fromhex(base.record.claim_key), watch)
    tags = Tags(store, index, upstream, fills, claims, loop, provenance, moved)
    index.on_tag_dropped = tags.forget
    return fills, tags


def _contexts(base: _Base, authority: Authority) -> Contexts:
    """Return the TLS contexts of client connections; log whether the kernel or the process encrypts."""
    config, missing = base.config, kernel_tls()
    if missing is None:
        log.info("kTLS: the kernel encrypts; files go out by sendfile")
        return Contexts(authority, ktls=True, seals=False, groups=config.tls_groups)
    log.info("kTLS is not available (%s); TLS is done in this process", missing)
    return Contexts(authority, ktls=False, seals=base.own_records, groups=config.tls_groups)


def own_records(config: Config) -> bool:
    """Tell whether the data plane makes and opens TLS records itself; say so in the log."""
    if config.tls_records == "openssl":
        log.info("TLS records: OpenSSL makes all of them (REGPROXY_TLS_RECORDS=openssl)")
        return False
    fault = records_fault(*throwaway())
    if fault:
        log.warning("TLS records: OpenSSL makes all of them, as our own failed the self-test: %s", fault)
        return False
    log.info("TLS records: made and opened here where that pays (%s)", tls.openssl_version())
    return True


def _tracer(slot: int) -> Tracer | None:
    """Return what traces requests, None unless OpenTelemetry's environment asks for it: nothing is imported
    then.
    """
    how = environment.read(os.environ)
    if how is None:
        return None
    from regproxy.tracing.requests import Requests

    return Requests.open(how, slot)


def _access_log(config: Config) -> AccessLog:
    try:
        return AccessLog.open(config.access_log, config.access_log_format == "rp")
    except OSError as error:
        raise unwritable("REGPROXY_ACCESS_LOG", config.access_log, error) from None


def _audit(config: Config, record: Record, loop: asyncio.AbstractEventLoop) -> Audit | None:
    """Return what tells the janitor of pulls, None with REGPROXY_AUDIT_LOG=off."""
    if not record.audit:
        return None
    if config.audit_log != "-":
        # The janitor writes it, but a setup is tried by a worker.
        try:
            LineSink.make(Path(config.audit_log))
        except OSError as error:
            raise unwritable("REGPROXY_AUDIT_LOG", config.audit_log, error) from None
    return Audit(Teller(record.audit[0]), config.audit_idle, loop)


def _watch(reactor: Reactor) -> Watch | None:
    """Return the watch for other workers' fills; without one they are polled many times a second."""
    try:
        return Watch(reactor)
    except OSError as error:
        log.warning(
            "%s: fills of other workers are followed by polling (fs.inotify.max_user_instances)", error
        )
        return None
