"""The official Python SDKs of the gateways beside Stripe, unmodified: only where they send is set.

They are synchronous: call them in `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import Adyen
import httpx
import requests
from paypalserversdk.configuration import Configuration, Environment, Server
from paypalserversdk.http.auth.o_auth_2 import ClientCredentialsAuthCredentials
from paypalserversdk.paypal_serversdk_client import PaypalServersdkClient
from square import Square

_SECRET = "secret"  # any will do


@contextlib.asynccontextmanager
async def square_python(url: str) -> AsyncIterator[Square]:
    """Square's. It repeats by itself: pass `request_options={"max_retries": 0}` to a call."""
    with httpx.Client() as http:
        yield Square(base_url=url, token=_SECRET, httpx_client=http)


@contextlib.asynccontextmanager
async def adyen_python(url: str) -> AsyncIterator[Adyen.Adyen]:
    """Adyen's. Each of its services has an address of its own."""
    adyen = Adyen.Adyen(xapikey=_SECRET, platform="test")
    for service in (adyen.checkout.payments_api, adyen.checkout.modifications_api):
        service.baseUrl = f"{url}/v72"
    yield adyen


@contextlib.asynccontextmanager
async def paypal_python(url: str) -> AsyncIterator[PaypalServersdkClient]:
    """PayPal's. It has no setting for the address, but it takes it from a configuration."""
    credentials = ClientCredentialsAuthCredentials("client", _SECRET)
    with requests.Session() as http:
        config = Configuration(
            http_client_instance=http,
            environment=Environment.PRODUCTION,
            client_credentials_auth_credentials=credentials,
        )
        config.environments = {Environment.PRODUCTION: {Server.DEFAULT: url}}
        yield PaypalServersdkClient(config=config)
