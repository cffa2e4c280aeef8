"""Health, metrics, reading the policy again and the breakers' switch, on the admin listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from proxy.settings.load import ConfigError
from proxy.telemetry.metrics import Metrics
from proxy.web.auth import CHALLENGE, Gatekeeper, Role
from proxy.web.breakers import Breakers


class Admin:
    """`/healthz`, `/readyz`, `/metrics`.

    Readiness speaks of Holdfast's own store and of stopping, never of a gateway: in a sidecar it
    counts for the whole pod, and a failing gateway is no reason to take the shop down.
    """

    def __init__(  # noqa: PLR0913 -- what it shows, and what it may do
        self,
        *,
        metrics: Metrics,
        refresh: Callable[[], Awaitable[None]],
        unready: Callable[[], str | None],
        broken: Callable[[], str | None],
        gatekeeper: Gatekeeper,
        reload: Callable[[], Awaitable[list[str]]],
        breakers: Breakers,
    ) -> None:
        self._metrics = metrics
        self._refresh = refresh
        self._unready = unready
        self._broken = broken
        self._gatekeeper = gatekeeper
        self._reload = reload
        self._breakers = breakers

    def app(self) -> web.Application:
        """The aiohttp application of the admin listener."""
        app = web.Application()
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/livez", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/-/reload", self.reload)
        app.router.add_post("/-/gateways/{name}/breaker", self._breakers.switch)
        return app

    async def healthz(self, _request: web.Request) -> web.Response:
        """503 only when nothing but a restart helps."""
        return _verdict(self._broken())

    async def readyz(self, _request: web.Request) -> web.Response:
        """Whether payments are taken."""
        return _verdict(self._broken() or self._unready())

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text, or OpenMetrics (with exemplars) for those who ask for it."""
        if self._gatekeeper.role(request) < Role.VIEWER:
            return web.Response(status=401, text=f"{self._gatekeeper.nobody}\n", headers=CHALLENGE)
        await self._refresh()
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = encode(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def reload(self, request: web.Request) -> web.Response:
        """Take up the policy file as it is now: what has changed, or every mistake in it."""
        if self._gatekeeper.role(request) < Role.OPERATOR:
            return web.Response(status=401, text=f"{self._gatekeeper.nobody}\n", headers=CHALLENGE)
        try:
            changed = await self._reload()
        except ConfigError as error:
            return web.Response(status=422, text=f"{error}\n")
        return web.Response(text="".join(f"{line}\n" for line in changed) or "nothing changed\n")


def _verdict(trouble: str | None) -> web.Response:
    if trouble is None:
        return web.Response(text="ok\n")
    return web.Response(status=503, text=f"{trouble}\n")
