"""Where gateways bring their webhooks: `POST /webhooks/{gateway}` on the session listener.

The one call there that needs no token. What proves a webhook is its signature; one that cannot have
one proves nothing, whoever sends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from proxy.core.signatures import Forged
from proxy.core.webhooks import Unreadable, Webhook
from proxy.core.wire import by_name
from proxy.flow.walk import Lane
from proxy.flow.webhooks import NotForwarded, Webhooks
from proxy.web.sessions_api import ApiProblem, SessionsApi

# GoCardless puts up to 250 events into one; most have a few KiB.
_MAX_BODY = 1024 * 1024
# Anyone can connect here, and nobody waits for who stops in the middle.
_BODY_SECONDS = 10.0


class WebhooksDoor:
    """The session listener's door for gateways, beside the one for backends."""

    def __init__(self, webhooks: Webhooks, lanes: Mapping[str, Lane], api: SessionsApi) -> None:
        self._webhooks = webhooks
        self._lanes = lanes
        self._api = api

    def app(self) -> web.Application:
        """The aiohttp application of the session listener, webhooks included."""
        app = self._api.app()
        app.router.add_post("/webhooks/{gateway}", self.receive)
        return app

    async def receive(self, request: web.Request) -> web.Response:
        """2xx only once it is all dealt with: after anything else the gateway sends it again."""
        lane = self._lanes.get(request.match_info["gateway"])
        recipe = None if lane is None else lane.profile.webhooks
        if lane is None or recipe is None:
            raise ApiProblem(404, "no-webhooks", "No gateway of this name has webhooks here")
        body = await _read(request)
        values = by_name(tuple(request.headers.items()))
        headers = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in request.raw_headers)
        webhook = Webhook(values, request.raw_path.partition("?")[2], body)
        try:
            await self._webhooks.take(lane, recipe, webhook, headers)
        except Forged as forged:
            title = "This is not shown to come from the gateway"
            raise ApiProblem(401, "webhook-refused", title, detail=str(forged)) from None
        except Unreadable:
            title = "The body is not what this gateway sends"
            raise ApiProblem(400, "webhook-unreadable", title) from None
        except NotForwarded as failed:
            title = "The webhook was heard, but could not be forwarded"
            raise ApiProblem(502, "webhook-not-forwarded", title, detail=str(failed)) from None
        return web.Response(text=recipe.answer, headers={"Cache-Control": "no-store"})


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.clone(client_max_size=_MAX_BODY).read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
